"""docs/poisoning.md: its commands run, on a smaller shop, and its names exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from small_shop import Command, options
from test_command_guides import lines_of, parse

from mmfed.config import known_keys

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "poisoning.md").read_text(encoding="utf-8")
LINES = lines_of("poisoning.md")


def test_the_simulations_of_the_guide(place: Path, mmfed: Command) -> None:
    """As written, with the tiny shop's twelve users; results say what the defence did."""
    said = {"bounded": "exposure alarm", "rows": "defence.row_bound", "median": "updates were errors or refused"}
    assert len(LINES) == len(said)
    for line in LINES:
        words = [word.replace("cohort=60", "cohort=6") for word in shlex.split(line)[1:]]
        outcome = mmfed(*words, *options())
        assert outcome.code == 0, f"{line}\n{outcome.err}"
        name = line.split("run.name=")[1].split()[0]
        notes = json.loads(Path("runs", name, "results.json").read_text(encoding="utf-8"))["notes"]
        assert any(said[name] in note for note in notes), notes
        assert said[name] in Path("runs", name, "report.html").read_text(encoding="utf-8")


def test_a_mode_without_single_updates_says_what_to_do(place: Path, mmfed: Command) -> None:
    outcome = mmfed("simulate", "--set", "privacy.mode=user-distributed", "--set", "defence.row_bound=1", *options())
    assert outcome.code == 3
    assert "nobody sees one" in outcome.err
    assert "set privacy.mode = 'user-central'" in outcome.err


def test_what_the_guide_names_exists() -> None:
    for path in set(re.findall(r"`((?:mmfed|tests|simulations)/[\w/]+(?:\.py)?)`", GUIDE)):
        assert (ROOT / path).exists(), path
    for key in set(re.findall(r"`((?:privacy|defence)\.\w+)`", GUIDE)):
        assert key in known_keys(), key
    for key in (one for one in known_keys() if one.startswith("defence.")):
        assert f"`{key}`" in GUIDE, key
    for line in LINES:
        parse(line)
    assert "python -m simulations.poisoning\n" in GUIDE
