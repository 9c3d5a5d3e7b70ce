"""docs/secure-aggregation.md: its commands run, on a smaller shop, and its names exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from small_shop import Command, options
from test_command_guides import lines_of, parse

from mmfed.config import known_keys

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "secure-aggregation.md").read_text(encoding="utf-8")
LINES = lines_of("secure-aggregation.md")


def test_the_plans_of_the_guide(mmfed: Command) -> None:
    plans = [shlex.split(line)[1:] for line in LINES if " privacy plan " in line]
    assert len(plans) == 2
    tree = json.loads(mmfed(*plans[0], "--format", "json").out)
    assert 7.9 < tree["epsilon"] <= 8.0
    assert tree["minimum_cohort"] == 800
    assert tree["upload_bytes"] == 8192 * tree["modulus_bits"] / 8
    again = ["--noise-multiplier", str(tree["noise_multiplier"])]
    back = json.loads(mmfed(*plans[0][:-4], *again, "--parameters", "5000", "--format", "json").out)
    assert back["epsilon"] == pytest.approx(tree["epsilon"])
    told = mmfed(*plans[1]).out
    for word in ("160 of 200 at least", "no amplification is claimed", "zero-out of one user", "honest but curious"):
        assert word in told


def test_a_plan_without_parameters_is_refused(mmfed: Command) -> None:
    outcome = mmfed(
        "privacy", "plan", "--mode", "user-distributed", "--population", "50", "--rounds", "2", "--epsilon", "8"
    )
    assert outcome.code == 2
    assert "--parameters" in outcome.err


@pytest.mark.slow
def test_the_simulations_of_the_guide(place: Path, mmfed: Command) -> None:
    """As written, with the tiny shop's twelve users for sixty; the audit holds and the report says the mode."""
    lines = [line for line in LINES if line.startswith("mmfed simulate")]
    assert len(lines) == 3
    for line in lines:
        words = [word.replace("nodes=60", "nodes=12") for word in shlex.split(line)[1:]]
        words = [word for word in words if word != "data.users=60"][:-1]
        outcome = mmfed(*words, *options())
        assert outcome.code == 0, f"{line}\n{outcome.err}"
        assert "zero-out of one user" in outcome.out
        name = line.split("run.name=")[1].split()[0]
        assert mmfed("audit", name).code == 0
        privacy = json.loads(Path("runs", name, "results.json").read_text())["privacy"]
        assert ("masks skipped" in privacy["simulated"]) == (name == "one-node")
        assert "Simulated differential privacy for one user" in Path("runs", name, "report.html").read_text()


def test_what_the_guide_names_exists() -> None:
    for path in set(re.findall(r"`((?:mmfed|tests|privacy|federated)/[\w/]+(?:\.py)?)`", GUIDE)):
        assert (ROOT / path).exists() or (ROOT / "mmfed" / path).exists(), path
    for key in set(re.findall(r"`((?:privacy|federation)\.\w+)`", GUIDE)) - {"privacy.md"}:
        assert key in known_keys(), key
    for line in LINES:
        parse(line)
