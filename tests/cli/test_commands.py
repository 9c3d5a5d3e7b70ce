"""Every command on the tiny shop: what it prints, as text and as JSON."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from small_shop import Command, options

import mmfed.cli.main as cli
from mmfed import __version__
from mmfed.cli.progress import RunProgress
from mmfed.config import build_config
from mmfed.data.load import load_shop
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.strategy import RoundRecord
from mmfed.records import RunFolder

PROMISE = ("unit: one user", "adjacency: add/remove one user", "trust: the server is trusted", "delta = 0.065")


@pytest.fixture
def here(trained_once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the trained runs, for commands that change nothing."""
    monkeypatch.chdir(trained_once)
    return trained_once


def test_simulate_prints_table_promise_and_places(place: Path, mmfed: Command) -> None:
    outcome = mmfed("simulate", *options("privacy.epsilon=4"))
    assert outcome.code == 0
    for word in ("recall@10", "ndcg@10", "coverage@10", "(category)", "(content)", "popularity", "dfmf federated"):
        assert word in outcome.out
    for word in (*PROMISE, "Not covered:", "seeded noise", "runs/demo"):
        assert word in outcome.out
    assert outcome.err.count("ε ") == outcome.err.count("(one user)") == 2  # every ε with its unit, one line a round
    assert "\x1b" not in outcome.out + outcome.err


def test_figures_printed_are_those_of_the_run(trained: Path, mmfed: Command) -> None:
    results = json.loads((trained / "runs" / "demo" / "results.json").read_text())
    outcome = mmfed("evaluate", "demo")
    again = json.loads((trained / "runs" / "demo" / "results.json").read_text())
    assert again == results
    for method in results["methods"]:
        for name in ("recall@10", "ndcg@10", "catalogue_coverage@10", "ild_category@10", "ild_content@10"):
            figure = method["metrics"][name]
            assert f"{figure['mean']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]" in outcome.out


def test_simulate_as_json_holds_the_results_and_nothing_else(place: Path, mmfed: Command) -> None:
    outcome = mmfed("simulate", *options("privacy.mode=none"), "--format", "json")
    tree = json.loads(outcome.out)
    assert tree["folder"] == "runs/demo"
    assert {key: tree[key] for key in json.loads((place / "runs/demo/results.json").read_text())}
    assert tree["privacy"]["epsilon"] is None
    assert "NO DIFFERENTIAL PRIVACY" in tree["privacy"]["sentence"]


def test_resume_of_a_finished_run_gives_the_same_figures(trained: Path, mmfed: Command) -> None:
    before = json.loads((trained / "runs" / "demo" / "results.json").read_text())
    outcome = mmfed("simulate", *options("run.name=demo", "privacy.epsilon=4"), "--resume", "--format", "json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["methods"] == before["methods"]


def test_fresh_keeps_the_earlier_run_and_its_ledger(trained: Path, mmfed: Command) -> None:
    ledger = (trained / "runs" / "demo" / "ledger.jsonl").read_bytes()
    arguments = ("simulate", *options("run.name=demo", "privacy.epsilon=4"), "--fresh")
    assert mmfed(*arguments).code == 0
    assert mmfed(*arguments).code == 0
    assert (trained / "runs" / "demo.1" / "ledger.jsonl").read_bytes() == ledger
    assert (trained / "runs" / "demo.2" / "results.json").exists()
    assert mmfed("audit", "demo", "demo.1", "demo.2").code == 0


def test_scenario_file_and_backend(place: Path, mmfed: Command) -> None:
    (place / "scenario.toml").write_text('[run]\nname = "fromfile"\n[data]\nsource = "table"\npath = "shop"\n')
    outcome = mmfed("simulate", "scenario.toml", *options("privacy.mode=none"), "--backend", "inprocess")
    assert outcome.code == 0, outcome.err
    held = tomllib.loads((place / "runs" / "fromfile" / "config.toml").read_text())
    assert held["federation"]["backend"] == "inprocess"


@pytest.mark.parametrize(
    ("given", "rounds"),
    [([], 10), (["--set", "federation.rounds=3"], 3), (["--set", "data.source=table"], 75), (["file.toml"], 75)],
)
def test_few_rounds_for_the_demo_shop_only(
    place: Path, mmfed: Command, monkeypatch: pytest.MonkeyPatch, given: list[str], rounds: int
) -> None:
    seen = []

    def simulate(config, **_: object) -> None:
        seen.append(config.federation.rounds)
        raise MmfedError(ExitCode.DATA, "stop.", "stop")

    monkeypatch.setattr("mmfed.simulation.run.simulate", simulate)
    (place / "file.toml").write_text('[data]\nsource = "demo"\n')
    mmfed("simulate", *given)
    assert seen == [rounds]


def test_recommend_never_shows_what_a_person_touched(here: Path, mmfed: Command) -> None:
    config = build_config({}, ["data.source=table", f"data.path={here / 'shop'}"])
    shop = load_shop(config.data, seed=0)
    for user in range(shop.interactions.user_count):
        seen = {shop.catalogue.item_ids[i] for i in shop.interactions.items[shop.interactions.rows(user)]}
        name = str(shop.interactions.user_ids[user])
        outcome = mmfed("recommend", "demo", "--user", name, "-k", "30", "--format", "json")
        tree = json.loads(outcome.out)
        shown = [item["item"] for item in tree["items"]]
        assert {item["item"] for item in tree["history"]} == seen
        assert set(shown) == set(shop.catalogue.item_ids) - seen
        scores = [item["score"] for item in tree["items"]]
        assert scores == sorted(scores, reverse=True)


def test_recommend_to_a_stranger_is_what_the_same_history_gets(here: Path, mmfed: Command) -> None:
    known = json.loads(mmfed("recommend", "demo", "--user", "u3", "--format", "json").out)
    history = ",".join(item["item"] for item in known["history"])
    stranger = json.loads(mmfed("recommend", "demo", "--history", history, "--format", "json").out)
    assert stranger["user"] is None
    assert stranger["items"] == known["items"]
    other = json.loads(mmfed("recommend", "demo", "--history", "i1", "--format", "json").out)
    assert [item["item"] for item in other["items"]] != [item["item"] for item in known["items"]]


def test_recommend_prints_titles_categories_and_prices(here: Path, mmfed: Command) -> None:
    outcome = mmfed("recommend", "demo", "--history", "i1,i2", "-k", "3")
    assert outcome.code == 0
    for word in ("title", "category", "price", "thing 1", "4.00", "Recommended by demo"):
        assert word in outcome.out


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (("--history", "thing 7"), "i7 (thing 7)"),
        (("--user", "u003"), "u3"),
        (("--history", "I1"), "i1"),
    ],
)
def test_recommend_names_the_nearest(here: Path, mmfed: Command, arguments: tuple[str, ...], fix: str) -> None:
    outcome = mmfed("recommend", "demo", *arguments)
    assert outcome.code == ExitCode.DATA
    assert fix in outcome.err.splitlines()[-1]


def test_recommend_with_private_vectors_uses_the_persons_own(place: Path, mmfed: Command) -> None:
    done = mmfed("simulate", *options("privacy.mode=none", "model.private_user_vector=true"))
    assert done.code == 0, done.err
    known = json.loads(mmfed("recommend", "demo", "--user", "u3", "--format", "json").out)
    history = ",".join(item["item"] for item in known["history"])
    stranger = json.loads(mmfed("recommend", "demo", "--history", history, "--format", "json").out)
    assert stranger["items"][0]["score"] != known["items"][0]["score"]


def test_moved_shop(trained: Path, mmfed: Command) -> None:
    (trained / "shop").rename(trained / "moved")
    assert mmfed("recommend", "demo", "--user", "u3").code == ExitCode.DATA
    assert mmfed("recommend", "demo", "--user", "u3", "--data", "moved").code == 0
    assert mmfed("evaluate", "demo", "--data", "moved").code == 0


def test_audit_of_a_coordinator(here: Path, mmfed: Command) -> None:
    outcome = mmfed("audit", "demo")
    assert outcome.code == 0
    for word in ("3 good lines, 2 releases", "unit: one user", "adjacency: add/remove", "trust:", "delta 0.065"):
        assert word in outcome.out
    header = json.loads((here / "runs/demo/ledger.jsonl").read_text().splitlines()[0])
    pinned = mmfed("audit", "demo", "--key", header["body"]["public_key"], "--format", "json")
    (ledger,) = json.loads(pinned.out)["ledgers"]
    assert ledger["key_pinned"]
    assert ledger["claimed"] == pytest.approx(ledger["recomputed"], rel=1e-3)
    assert ledger["claimed"] == pytest.approx(4.0, abs=0.01)


def test_audit_of_many_devices_shows_the_worst(here: Path, mmfed: Command) -> None:
    outcome = mmfed("audit", "device")
    assert outcome.code == 0
    assert "12 device ledgers: 12 hold; 24 releases" in outcome.out
    assert outcome.out.count("claimed epsilon") == 3
    tree = json.loads(mmfed("audit", "device", "--format", "json").out)
    assert len(tree["ledgers"]) == 12
    worst = max(ledger["recomputed"] for ledger in tree["ledgers"])
    assert f"recomputed {worst:.4f}" in outcome.out.split("claimed epsilon")[1]
    assert "one window" in outcome.out


def test_audit_without_privacy(here: Path, mmfed: Command) -> None:
    outcome = mmfed("audit", "plain")
    assert outcome.code == 0
    assert "nothing to audit: no differential privacy" in outcome.out
    assert json.loads(mmfed("audit", "plain", "--format", "json").out)["without_privacy"] == ["runs/plain"]


def test_audit_report(here: Path, mmfed: Command, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    outcome = mmfed("audit", "demo", "--report", str(tmp_path / "out"))
    assert outcome.code == 0
    assert f"Report: {tmp_path / 'out' / 'audit.html'}" in outcome.out
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "mmfed audit demo" in page
    assert "python -m mmfed.privacy.audit runs/demo/ledger.jsonl" in page
    tree = json.loads(mmfed("audit", "device", "--report", str(tmp_path / "two"), "--format", "json").out)
    assert tree["report"] == str(tmp_path / "two" / "audit.html")
    assert len((tmp_path / "two" / "audit.csv").read_text().splitlines()) == 13


def test_ledgers_of_one_run_are_compared(here: Path, mmfed: Command, tmp_path: Path) -> None:
    devices = sorted((here / "runs/device/devices").glob("*/*/ledgers/*.jsonl"))
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(b"".join(devices[0].read_bytes().splitlines(keepends=True)[:2]))
    outcome = mmfed("audit", str(devices[0]), str(devices[1]), str(copy))
    assert outcome.code == 0
    assert "an earlier copy of" in outcome.out


def test_report(trained: Path, mmfed: Command) -> None:
    pytest.importorskip("jinja2")
    (trained / "runs" / "demo" / "report.html").unlink()
    outcome = mmfed("report", "demo")
    assert outcome.code == 0
    assert "runs/demo/report.html" in outcome.out
    assert (trained / "runs" / "demo" / "report.html").stat().st_size > 1000


def test_without_the_reports_extra_the_run_goes_on(
    place: Path, mmfed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mmfed.reports.run_report", None)
    outcome = mmfed("simulate", *options("privacy.mode=none"))
    assert outcome.code == 0
    assert "mmfed[reports]" in outcome.err
    assert mmfed("report", "demo").code == ExitCode.MISSING_EXTRA


def test_compare(place: Path, mmfed: Command) -> None:
    pytest.importorskip("jinja2")
    (place / "two.toml").write_text(
        """
[run]
name = "two"
[compare]
seeds = [0, 1]
baselines = ["popularity"]
results = "two.md"
[[compare.methods]]
name = "open"
set = { "privacy.mode" = "none" }
[[compare.methods]]
name = "windows"
set = { "privacy.mode" = "record", "privacy.epsilon" = "none", "privacy.noise_multiplier" = 2, "federation.rounds" = 1 }
"""
    )
    outcome = mmfed("compare", "two.toml", *options())
    assert outcome.code == 0, outcome.err
    assert "(one window, worst device)" in outcome.err  # the unit of the method that runs, not of the scenario
    assert "[5/5] windows, seed 1" in outcome.err
    for word in ("popularity", "open", "windows", "NO DIFFERENTIAL PRIVACY", "comparison.json", "two.md"):
        assert word in outcome.out
    assert "| popularity |" in (place / "two.md").read_text(encoding="utf-8")
    assert mmfed("compare", "two.toml", *options()).code == ExitCode.STORAGE
    again = json.loads(mmfed("compare", "two.toml", *options(), "--resume", "--format", "json").out)
    assert [method["name"] for method in again["methods"]] == ["popularity", "open", "windows"]
    assert mmfed("audit", "two/windows-seed1").code == 0


def test_privacy_plan_both_ways(mmfed: Command) -> None:
    base = ("privacy", "plan", "--population", "100000", "--cohort", "1000", "--rounds", "500", "--format", "json")
    noise = json.loads(mmfed(*base, "--epsilon", "4").out)
    assert noise["noise_multiplier"] == pytest.approx(0.70, abs=0.01)  # N 1e5, cohort 1000, T 500, epsilon 4
    back = json.loads(mmfed(*base, "--noise-multiplier", str(noise["noise_multiplier"])).out)
    assert back["epsilon"] == pytest.approx(noise["epsilon"], rel=1e-6)
    told = mmfed(*base[:-2], "--epsilon", "4").out
    for word in ("noise multiplier", "unit: one user", "adjacency", "trust", "delta = 3.16e-06", "not covered"):
        assert word in told


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_privacy_plan_of_devices_that_trust_nobody(mmfed: Command, law: str) -> None:
    base = ("privacy", "plan", "--mode", "user-local", "--local-noise", law, "--population", "10000", "--cohort", "500")
    base = (*base, "--rounds", "100", "--participations", "5", "--format", "json")
    tree = json.loads(mmfed(*base, "--epsilon", "8").out)
    assert (tree["releases"], tree["sampling"]) == (5, "full")
    assert "nobody" in tree["trust"]
    again = json.loads(mmfed(*base, "--noise-multiplier", str(tree["noise_multiplier"])).out)
    assert again["epsilon"] == pytest.approx(8.0, rel=1e-3)


def test_privacy_plan_of_records_says_what_it_means_for_a_person(mmfed: Command) -> None:
    arguments = ("--population", "30", "--cohort", "10", "--rounds", "30", "--noise-multiplier", "3", "--delta", "1e-5")
    tree = json.loads(mmfed("privacy", "plan", "--mode", "record", *arguments, "--format", "json").out)
    assert tree["epsilon"] == pytest.approx(2.74, abs=0.15)  # n 30, q 1/3, 30 steps: record 2.74, user 279
    assert tree["epsilon_of_a_whole_user"] > 50 * tree["epsilon"]


def test_data_synth_and_check(place: Path, mmfed: Command) -> None:
    outcome = mmfed("data", "synth", "new", "--users", "30", "--seed", "3", "--format", "json")
    assert json.loads(outcome.out)["users"] == 30
    tree = json.loads(mmfed("data", "check", "new", "--format", "json").out)
    assert tree["ok"]
    assert tree["counts"]["users"] == 30
    assert "The shop loads" in mmfed("data", "check", "new").out


def test_data_check_lists_every_fault(place: Path, mmfed: Command) -> None:
    items = place / "shop" / "items.csv"
    items.write_text(items.read_text().replace(",3,", ",-3,").replace(",4,", ",x,"))
    outcome = mmfed("data", "check", "shop")
    assert outcome.code == ExitCode.DATA
    assert outcome.out.count("FAULT: items.csv, row ") == 2
    assert "(1 more above)" in outcome.err


def test_doctor(place: Path, mmfed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    outcome = mmfed("doctor")
    assert outcome.code == 0
    for word in ("flwr", "extra vision", "threads", "GiB free", "image weights"):
        assert word in outcome.out
    assert not (place / "cache").exists()
    assert not (place / "runs").exists()


def test_doctor_names_what_is_broken(place: Path, mmfed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.20.0" if name == "flwr" else real(name))
    outcome = mmfed("doctor")
    assert outcome.code == ExitCode.MISSING_EXTRA
    assert "flwr: 1.20.0, supported is" in outcome.err
    assert not json.loads(mmfed("doctor", "--format", "json").out)["ok"]


def test_new_writes_an_app(place: Path, mmfed: Command) -> None:
    outcome = mmfed("new", "app", "--format", "json")
    files = json.loads(outcome.out)["files"]
    assert {"server/app.py", "client/app.py", "simulations/demo.toml", "pyproject.toml"} <= set(files)
    project = tomllib.loads((place / "app" / "pyproject.toml").read_text())
    own = tomllib.loads((Path(cli.__file__).parents[2] / "pyproject.toml").read_text())
    assert project["tool"]["flwr"]["app"]["components"] == own["tool"]["flwr"]["app"]["components"]
    assert project["tool"]["flwr"]["app"]["config"] == own["tool"]["flwr"]["app"]["config"]


def test_version(mmfed: Command) -> None:
    assert mmfed("--version").out == f"mmfed {__version__}\n"


def test_progress_tells_time_left_and_lost_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    config = build_config({}, ["federation.rounds=4"])
    with RunProgress(config) as progress:
        progress.stage("training")
        for number in range(1, 4):
            record = RoundRecord(number, 30.0, 28, 27, 1, 0.1, 0.5 * number, {"ndcg@10": 0.25})
            progress.round(record, record.epsilon)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "round 2/4 · ndcg@10 0.2500 · cohort 27/30, 1 nodes failed · ε 1 (one user) · 0:00 left" in lines[1]


def test_run_folder_by_path_or_name(here: Path) -> None:
    from mmfed.simulation.run_folders import open_run, run_names

    assert open_run("demo")[0] == RunFolder(Path("runs/demo"))
    assert open_run("runs/demo")[0] == RunFolder(Path("runs/demo"))
    assert run_names(Path("runs")) == ["demo", "device", "plain"]


@pytest.mark.slow
def test_audit_by_attacks(trained: Path, mmfed: Command) -> None:
    pytest.importorskip("jinja2")
    few = ("--empirical", "--people", "8", "--rounds", "2", "--shadows", "1")
    outcome = mmfed("audit", "demo", *few, "--report", "out")
    assert outcome.code == 0, outcome.err
    for word in ("8 canaries", "support recall: AUC", "every release is charged: holds", "no evidence of a small"):
        assert word in outcome.out
    assert "Checks of the implementation" in (trained / "out" / "audit.html").read_text()
    kept = json.loads((trained / "runs" / "demo" / "empirical.json").read_text())
    assert kept["plan"]["people"] == 8
    ledger = (trained / "runs" / "demo" / "ledger.jsonl").read_bytes()
    again = json.loads(mmfed("audit", "plain", *few, "--format", "json").out)
    assert again["empirical"]["holds"] is None
    assert (trained / "runs" / "demo" / "ledger.jsonl").read_bytes() == ledger
    assert mmfed("audit", "demo", "plain", *few).code == 2
    kept["holds"] = False
    monkey = "mmfed.simulation.empirical.audit_empirically"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monkey, lambda *_, **__: kept)
        broken = mmfed("audit", "demo", "--empirical")
    assert broken.code == 9
    assert "breaks the promise" in broken.err


@pytest.mark.slow
def test_audit_of_a_scenario_by_attacks(place: Path, mmfed: Command) -> None:
    text = '[run]\nname = "x"\n[data]\nsource = "table"\npath = "shop"\n[features]\nmodalities = ["attributes"]\n'
    (place / "scenario.toml").write_text(text)
    outcome = mmfed("audit", "scenario.toml", "--empirical", "--people", "8", "--rounds", "1", "--shadows", "0")
    assert outcome.code == 0, outcome.err
    assert "8 canaries" in outcome.out
    assert not (place / "runs").exists()


def test_private_figures(trained: Path, mmfed: Command) -> None:
    ledger = (trained / "runs" / "demo" / "ledger.jsonl").read_bytes()
    found = json.loads(mmfed("evaluate", "demo", "--private", "0.5,8", "--format", "json").out)["private"]
    assert {round(one["epsilon"], 1) for one in found} == {0.5, 8.0}
    assert {one["name"].partition("@")[0] for one in found} == {
        "recall", "ndcg", "hit_rate", "catalogue_coverage", "gini"
    }  # fmt: skip
    outcome = mmfed("evaluate", "demo", "--private", "2")
    assert "private recall@10: epsilon 2" in outcome.out
    assert "nothing is charged to the run" in outcome.out
    assert (trained / "runs" / "demo" / "ledger.jsonl").read_bytes() == ledger
    assert mmfed("evaluate", "demo", "--private", "2,x").code == 2
    assert mmfed("evaluate", "device", "--private", "2").code == 6
