"""``mmfed cold-start`` and ``mmfed modalities``: tables, JSON, Markdown, and mistakes in one line."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from small_shop import Command, options

from mmfed.errors import ExitCode

HELD_OUT = ("data.split.cold_items=0.25", "data.split.new_users=0.25", "privacy.mode=none")


@pytest.mark.usefixtures("place")
def test_cold_start_shows_both_tables_and_goes_on(mmfed: Command) -> None:
    first = mmfed("cold-start", *options(*HELD_OUT, "run.name=cold"))
    assert first.code == 0, first.err
    for words in ("New items", "New users", "nearest content", "warm users, popularity", "NO DIFFERENTIAL PRIVACY"):
        assert words in first.out
    again = mmfed("cold-start", *options(*HELD_OUT, "run.name=cold"))
    assert again.code == ExitCode.STORAGE
    assert "--resume" in again.err
    tree = json.loads(mmfed("cold-start", *options(*HELD_OUT, "run.name=cold"), "--resume", "--format", "json").out)
    assert [table["title"] for table in tree["tables"]] == ["New items", "New users"]
    fresh = mmfed("cold-start", *options(*HELD_OUT, "run.name=cold"), "--fresh")
    assert fresh.code == 0, fresh.err
    assert Path("runs/cold.1/cold_start.json").exists()


def test_markdown_goes_where_the_scenario_says(mmfed: Command, place: Path) -> None:
    section = '[cold_start]\nids_only = false\nresults = "docs/cold.md"\n[modalities]\nresults = "docs/missing.md"\n'
    (place / "shop.toml").write_text(section)
    assert mmfed("cold-start", "shop.toml", *options(*HELD_OUT, "run.name=a")).code == 0
    assert mmfed("modalities", "shop.toml", *options("run.name=b", "privacy.mode=none")).code == 0
    assert (place / "docs" / "cold.md").read_text().startswith("# Cold start: ")
    assert "| without id |" in (place / "docs" / "missing.md").read_text()


@pytest.mark.usefixtures("trained")
def test_modalities_of_a_finished_run(mmfed: Command) -> None:
    outcome = mmfed("modalities", "--run", "plain")
    assert outcome.code == 0, outcome.err
    for words in ("nothing hidden", "without attributes", "id only", "popularity"):
        assert words in outcome.out
    assert Path("runs/plain/modalities.json").exists()


@pytest.mark.usefixtures("place")
def test_dropout_adds_a_table(mmfed: Command) -> None:
    outcome = mmfed("modalities", *options("privacy.mode=none"), "--dropout", "0.3")
    assert outcome.code == 0, outcome.err
    assert "(no modality dropout)" in outcome.out
    assert "(modality dropout 0.3)" in outcome.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("modalities", "--run", "plain", "--dropout", "0.3"),
        ("modalities", "--dropout", "1"),
        ("modalities", "--data", "shop"),
        ("modalities", "--run", "nobody"),
        ("cold-start", "missing.toml"),
        ("cold-start", "--set", "data.split.cold_items=1.5"),
        ("cold-start", "--set", "data.split.cold_items=0.5", "--set", "data.split.fold=2"),
    ],
)
@pytest.mark.usefixtures("place")
def test_mistakes_end_in_one_line(mmfed: Command, arguments: tuple[str, ...]) -> None:
    outcome = mmfed(*arguments)
    assert outcome.code != 0
    assert "Traceback" not in outcome.err
    assert "fix:" in outcome.err


@pytest.mark.slow
def test_the_guide_runs_as_written(mmfed: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("torchvision")
    monkeypatch.chdir(tmp_path)
    guide = (Path(__file__).resolve().parents[2] / "docs" / "cold-start.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", guide, flags=re.S)
    lines = [line for block in blocks for line in block.splitlines() if line]
    assert len(lines) == 4
    for line in lines:
        outcome = mmfed(*shlex.split(line)[1:])
        assert outcome.code == 0, f"{line}\n{outcome.err}"
