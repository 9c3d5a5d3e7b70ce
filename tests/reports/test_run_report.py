"""The page of a run: what it must say first, that it loads nothing, and that nothing foreign gets out of its text."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_reader import Page

from mmfed.errors import ExitCode, MmfedError
from mmfed.records import RunFolder, read_lines
from mmfed.reports.run_facts import read_run
from mmfed.reports.run_report import write_run_report

Changed = Callable[..., RunFolder]
MODES = ("none", "user-central", "record")
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}"


def page_of(run: RunFolder) -> Page:
    return Page(write_run_report(run).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pages(runs: dict[str, RunFolder]) -> dict[str, Page]:
    return {mode: page_of(run) for mode, run in runs.items()}


@pytest.mark.parametrize("mode", MODES)
def test_it_loads_nothing_and_runs_nothing(pages: dict[str, Page], runs: dict[str, RunFolder], mode: str) -> None:
    page, html = pages[mode], runs[mode].report.read_text(encoding="utf-8")
    assert all(one.startswith("data:") for one in page.loaded)
    assert page.handlers == []
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert "@import" not in html
    assert "url(" not in html
    assert "default-src 'none'" in html
    assert len(html.encode()) < 1_500_000


def test_the_first_line_is_the_privacy_statement(pages: dict[str, Page], runs: dict[str, RunFolder]) -> None:
    assert pages["none"].texts[0].startswith("No differential privacy: ε is infinite.")
    for mode, unit in (("user-central", "one user"), ("record", "one window of at most 10 interactions")):
        statement = json.loads(runs[mode].results.read_text())["privacy"]
        first = pages[mode].texts[0]
        assert first.startswith(f"Simulated differential privacy for {unit}")
        assert f"ε = {statement['epsilon']:.4g}, δ = {statement['delta']:.3g}" in first
        for part in (statement["adjacency"], statement["trust"], statement["delta_reason"], *statement["covered"]):
            assert part in pages[mode].text
        for part in statement["not_covered"]:
            assert part in pages[mode].text
        assert "whoever knows the seed can subtract it" in pages[mode].text
    assert "worst device" in pages["record"].texts[0]
    assert "not a person" in pages["record"].text


def test_noise_that_is_not_seeded_is_not_called_simulated(changed: Changed) -> None:
    run = changed("user-central", results=lambda tree: tree["privacy"].update(simulated=None))
    page = page_of(run)
    assert page.texts[0].startswith("Differential privacy for one user")
    assert "Simulated guarantee" not in page.text


def test_every_figure_of_the_results_stands_in_the_tables(pages: dict[str, Page], runs: dict[str, RunFolder]) -> None:
    for mode in MODES:
        for method in json.loads(runs[mode].results.read_text())["methods"]:
            for estimate in method["metrics"].values():
                expected = f"{estimate['mean']:.6g}" if estimate["mean"] is not None else "undefined: "
                assert any(one.startswith(expected) for one in pages[mode].titles)
            assert method["kind"] in pages[mode].text


def test_undefined_figures_say_why(changed: Changed) -> None:
    def undefine(tree: dict[str, Any]) -> None:
        tree["methods"][-1]["metrics"]["recall@10"] = {
            "mean": math.nan,
            "low": None,
            "high": None,
            "reason": "because so",
        }
        tree["methods"][-1]["metrics"]["ndcg@10"] = None

    page = page_of(changed("none", results=undefine))
    assert "undefined: because so" in page.titles
    assert "– Recall @10: because so" in page.text
    assert "nan" not in page.text.lower().split()


def test_epsilon_points_are_the_charges_of_the_ledger(pages: dict[str, Page], runs: dict[str, RunFolder]) -> None:
    charges = [line["body"] for line in read_lines(runs["user-central"].ledger) if line["kind"] == "release"]
    assert len(charges) == 3
    for body in charges:
        assert any(one.startswith(f"spent, {body['round']}: ") for one in pages["user-central"].titles)
    assert read_run(runs["user-central"]).curves[0].points == [(body["round"], body["epsilon"]) for body in charges]
    assert "There is no ledger" in pages["none"].text


def test_record_mode_shows_worst_and_median_device(changed: Changed) -> None:
    run = changed("record")
    ledgers = sorted(run.devices.glob("*/*/ledgers/*.jsonl"))
    lines = [json.loads(line) for line in ledgers[0].read_text().splitlines()]
    for line in lines[1:]:
        line["body"]["epsilon"] *= 2
    ledgers[0].write_text("".join(json.dumps(line) + "\n" for line in lines))
    worst, median = read_run(run).curves
    common = [(line["body"]["round"], line["body"]["epsilon"]) for line in read_lines(ledgers[1])[1:]]
    assert median.points == common
    assert worst.points == [(round_, pytest.approx(2 * spent)) for round_, spent in common]
    assert "believe neither before an audit" in page_of(run).text


def test_a_device_that_stays_out_keeps_what_it_spent(changed: Changed) -> None:
    run = changed("record")
    for ledger in sorted(run.devices.glob("*/*/ledgers/*.jsonl"))[:-1]:
        ledger.write_text("\n".join(ledger.read_text().splitlines()[:2]) + "\n")
    worst, median = read_run(run).curves
    assert [spent for _, spent in median.points] == [median.points[0][1]] * 3
    assert worst.points[2][1] > worst.points[0][1]


def test_the_chosen_round_is_marked(changed: Changed, tmp_path: Path) -> None:
    page = page_of(changed("none", results=lambda tree: tree.update(round=2)))
    assert "chosen: round 2" in page.text
    assert "best validation ndcg@10" in page.text
    html = (tmp_path / "none" / "report.html").read_text(encoding="utf-8")
    second = re.search(r'cx="([0-9.]+)"[^>]*><title>NDCG @10, 2:', html)
    mark = re.search(r'class="mark" x1="([0-9.]+)"', html)
    assert second is not None
    assert mark is not None
    assert second.group(1) == mark.group(1)


def test_recall_and_hit_rate_are_one_curve_only_where_they_are_equal(
    changed: Changed, runs: dict[str, RunFolder]
) -> None:
    assert "Hit rate @10 equals recall @10 here" in page_of(runs["none"]).text
    run = changed("none")
    lines = read_lines(run.metrics)
    lines[-1]["validation"]["hit_rate@10"] = 0.99
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = page_of(run)
    assert "equals recall" not in page.text
    assert "Hit rate @10, 3: 0.990" in page.titles


def test_recommendations_mark_the_held_out_item_and_carry_their_pictures(changed: Changed) -> None:
    run = changed("none")
    shown = json.loads(run.recommendations.read_text())
    shown = shown[:2]
    shown[0]["held_out"] = [shown[0]["recommended"][3]]
    shown[1]["held_out"] = [{"item": "elsewhere", "label": "Somewhere else", "image": None}]
    run.recommendations.write_text(json.dumps(shown))
    page = page_of(run)
    assert page.text.count("held-out item at rank 4") == 1
    assert page.texts.count("held out") == 1
    assert "the held-out item is not among them" in page.text
    assert "Somewhere else" in page.text
    assert "simulated shoppers of the demo shop" in page.text
    first = base64.b64decode(page.images[0].removeprefix("data:image/jpeg;base64,"))
    assert first.startswith(b"\xff\xd8\xff")
    from PIL import Image

    assert Image.open(io.BytesIO(first)).size == (96, 96)


def test_real_people_are_called_real(changed: Changed) -> None:
    run = changed("none")
    run.config.write_text(run.config.read_text().replace('source = "demo"', 'source = "table"'))
    page = page_of(run)
    assert "keep the page as confidential as the data" in page.text
    assert "simulated shoppers" not in page.text.split("Sample recommendations")[1].split("How it was made")[0]


def test_pictures_that_cannot_be_shown_leave_a_blank(changed: Changed, tmp_path: Path) -> None:
    run = changed("none")
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    paths = [
        "/nowhere/at/all.jpg",
        str(tmp_path / "text.jpg"),
        str(tmp_path / "empty.jpg"),
        str(tmp_path),
        "a\0b",
        7,
        None,
    ]
    items = [{"item": str(place), "label": "x", "image": path} for place, path in enumerate(paths)]
    run.recommendations.write_text(json.dumps([{"user": "u", "history": items, "recommended": [], "held_out": []}]))
    page = page_of(run)
    assert page.images == []
    assert page.texts.count("no picture") == len(paths)


def test_foreign_text_stays_text(changed: Changed) -> None:
    run = changed("user-central")
    tree = json.loads(run.results.read_text())
    for key in ("run", "shop", "split", "protocol"):
        tree[key] = EVIL
    tree["notes"], tree["surprise"] = [EVIL, {"a": EVIL}], {"deep": [EVIL]}
    for key in ("unit", "trust", "delta_reason", "simulated"):
        tree["privacy"][key] = EVIL
    tree["privacy"]["covered"] = [EVIL]
    tree["methods"][-1] |= {"name": EVIL, "kind": EVIL}
    tree["methods"][-1]["metrics"][f"{EVIL}@10"] = {"mean": 1.0, "reason": EVIL}
    tree["methods"][-1]["metrics"]["gini@10"] = {"mean": None, "reason": EVIL}
    run.results.write_text(json.dumps(tree))
    item = {"item": EVIL, "label": EVIL, "image": EVIL}
    shown = [{"user": EVIL, "history": [item], "recommended": [item], "held_out": [item]}]
    run.recommendations.write_text(json.dumps(shown))
    run.environment.write_text(json.dumps({EVIL: EVIL, "versions": {EVIL: EVIL, "mmfed": EVIL}}))
    with run.config.open("a") as file:
        file.write(f"# {EVIL}\n")
    page = page_of(run)
    assert "script" not in page.tags
    assert page.handlers == []
    assert all(one.startswith("data:") for one in page.loaded)
    assert "49" not in [word for text in page.texts for word in text.split("img")]
    assert page.text.count("<script>alert(1)</script>") > 10


def test_very_long_names_are_cut(changed: Changed) -> None:
    long = "w" * 5000
    run = changed("none", results=lambda tree: tree.update(run=long, shop=long, notes=[long]))
    tree = json.loads(run.results.read_text())
    tree["methods"][-1]["name"] = long
    run.results.write_text(json.dumps(tree))
    item = {"item": long, "label": long, "image": None}
    run.recommendations.write_text(
        json.dumps([{"user": long, "history": [item] * 40, "recommended": [item] * 40}] * 12)
    )
    page = page_of(run)
    assert max(len(text) for text in page.texts if "[run]" not in text) < 1000
    assert run.report.stat().st_size < 1_000_000


def test_ten_thousand_rounds_stay_small(changed: Changed) -> None:
    run = changed("user-central")
    with run.metrics.open("w") as file:
        for number in range(1, 10_001):
            validation = {"recall@10": number / 20_000, "ndcg@10": number / 40_000, "hit_rate@10": number / 19_000}
            record = {"round": number, "planned": 40.0, "realised": 40 - number % 7, "validation": validation}
            file.write(json.dumps(record) + "\n")
    page = page_of(run)
    assert run.report.stat().st_size < 700_000
    assert any(one.startswith("NDCG @10, 10000: 0.250") for one in page.titles)


def test_a_killed_run_still_gives_a_page(changed: Changed) -> None:
    run = changed("user-central")
    run.results.unlink()
    run.recommendations.unlink()
    with run.metrics.open("a") as file:
        file.write('{"round": 4, "planned": 40.0, "reali')
    page = page_of(run)
    spent = read_run(run).charged
    assert f"ε = {spent:.4g}" in page.texts[0]
    assert "This run is not finished: 3 of 3 rounds are done." in page.text
    assert "ε is what its ledgers have charged so far" in page.text
    assert "This run has no test figures yet." in page.text


def test_a_run_killed_before_its_first_round_claims_nothing(changed: Changed) -> None:
    run = changed("user-central")
    for path in (run.results, run.recommendations, run.metrics, run.ledger, run.environment):
        path.unlink()
    page = page_of(run)
    assert page.texts[0].startswith("No privacy account yet (mode user-central)")
    run.config.write_text('[privacy]\nmode = "none"\n')
    assert page_of(run).texts[0].startswith("No differential privacy")


def test_damaged_files_are_named_and_the_rest_is_shown(changed: Changed) -> None:
    run = changed("user-central")
    run.environment.write_text("{")
    run.recommendations.write_text('[1, 2, {"history": 3, "recommended": [4]}]')
    run.ledger.write_text("torn\n" + run.ledger.read_text())
    run.config.write_bytes(b"\xff\xfe")
    page = page_of(run)
    for part in ("environment.json: not valid JSON", "line 1 is not JSON", "config.toml: cannot be read"):
        assert part in page.text
    assert "Recall @10" in page.text
    run.results.write_text("[]")
    assert "This run is not finished" in page_of(run).text


def test_folders_without_a_run_are_faults(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(MmfedError) as caught:
            write_run_report(RunFolder(path))
        assert caught.value.code is ExitCode.STORAGE


def test_a_page_that_cannot_be_written_is_a_fault(changed: Changed) -> None:
    run = changed("none")
    run.report.unlink(missing_ok=True)
    run.report.mkdir()
    with pytest.raises(MmfedError) as caught:
        write_run_report(run)
    assert caught.value.code is ExitCode.STORAGE


def test_other_protocols_are_announced(changed: Changed) -> None:
    page = page_of(changed("none", results=lambda tree: tree.update(protocol="sampled@99")))
    assert "Protocol sampled@99: not comparable" in page.text
    assert "not comparable" not in page_of(changed("user-central")).text


def test_popularity_is_compared_by_intervals(changed: Changed) -> None:
    def separate(tree: dict[str, Any]) -> None:
        figures = {method["name"]: method["metrics"] for method in tree["methods"]}
        ours = next(method for method in tree["methods"] if method["federated"])["metrics"]
        ours["ndcg@10"] = {"mean": 0.4, "low": 0.35, "high": 0.45}
        figures["popularity"]["ndcg@10"] = {"mean": 0.2, "low": 0.15, "high": 0.25}
        ours["catalogue_coverage@10"] = {"mean": 0.4, "low": 0.2, "high": 0.45}
        figures["popularity"]["catalogue_coverage@10"] = {"mean": 0.2, "low": 0.15, "high": 0.25}
        ours["ild_category@10"] = {"mean": 0.1, "low": 0.09, "high": 0.11}
        figures["popularity"]["ild_category@10"] = {"mean": 0.2, "low": 0.15, "high": 0.25}

    page = page_of(changed("none", results=separate))
    assert "2 × popularity, intervals apart" in page.text
    assert "intervals overlap: not told apart" in page.text
    assert "0.5 × popularity, intervals apart" in page.text


@pytest.mark.slow
def test_a_browser_draws_it_without_complaint(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    import subprocess

    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    page = write_run_report(runs["user-central"])
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            page.resolve().as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    assert "Content Security Policy" not in done.stderr
    assert "Simulated differential privacy" in done.stdout
