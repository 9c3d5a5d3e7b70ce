"""What a person says about themself from the command line: the guide's commands, and answers that are of no use."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from people_shop import write_people_shop
from small_shop import Command

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "own-content.md"
SMALL = ("features.modalities=[]", "model.dimensions=4", "federation.rounds=2", "evaluation.bootstrap=20")


def section() -> str:
    return GUIDE.read_text(encoding="utf-8").split("# What a person says about themself")[1]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_people_shop(tmp_path / "myshop")
    (scenario,) = re.findall(r"```toml\n(.*?)```", section(), flags=re.S)
    (tmp_path / "people.toml").write_text(scenario, encoding="utf-8")
    return tmp_path


def test_the_guide_runs_as_written(shop: Path, mmfed: Command) -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", section(), flags=re.S)
    said = []
    for line in block.splitlines():
        words = shlex.split(line)[1:]
        if words[0] in ("simulate", "cold-start"):
            words += [part for one in SMALL for part in ("--set", one)]
        outcome = mmfed(*words)
        assert outcome.code == 0, f"{line}\n{outcome.err}"
        said.append(outcome.out)
    assert "data.people.age = [" in said[0]
    assert 'data.people.region = ["north", "south"]' in said[0]
    assert "data.people" not in said[1]
    assert len({text.split("Recommended by")[1] for text in said[3:6]}) > 1


def test_answers_change_the_list_of_somebody_new(shop: Path, mmfed: Command) -> None:
    more = [part for one in (*SMALL, "privacy.mode=none", "federation.rounds=20") for part in ("--set", one)]
    assert mmfed("simulate", "people.toml", *more).code == 0

    def listed(*words: str) -> list[str]:
        found = mmfed("recommend", "people", *words, "-k", "5", "--format", "json")
        assert found.code == 0, found.err
        return [one["item"] for one in json.loads(found.out)["items"]]

    young, old = listed("--about", "age=10"), listed("--about", "age=70")
    assert not set(young) & set(old)
    assert listed("--about", "age=19") == young
    assert not {young[0]} & set(listed("--history", young[0], "--about", "age=10"))


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--about", "income=3"], "trained without it"),
        (["--about", "age=old"], "give a number"),
        (["--about", "region=west"], "give one of north, south"),
        (["--about", "age"], "takes NAME=ANSWER"),
        (["--about", "age=1", "--about", "age=2"], "each name once"),
        (["--about", "age=1", "--user", "u1"], "goes with --history, --query or alone"),
    ],
)
def test_answers_of_no_use(shop: Path, mmfed: Command, words: list[str], fault: str) -> None:
    more = [part for one in (*SMALL, "federation.rounds=1") for part in ("--set", one)]
    assert mmfed("simulate", "people.toml", *more).code == 0
    outcome = mmfed("recommend", "people", *words)
    assert outcome.code != 0
    assert fault in re.sub(r"[\s│]+", " ", outcome.err)
