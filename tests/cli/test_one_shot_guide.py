"""docs/one-shot.md: its commands run one after the other, and its figures are those of the code."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from small_shop import Command

from mmfed.config import OneShotSection
from mmfed.federated.one_shot_terms import ITEMS_UNDER_NOISE, MOST_NOISED_ITEMS, MOST_PAIRED_ITEMS
from mmfed.models.denoise import THRESHOLD
from mmfed.privacy import advice
from mmfed.privacy.one_shot_local import plan_one_shot_local
from mmfed.training.cooccurrence import packed_size

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "one-shot.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_guide_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mmfed: Command) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", GUIDE, flags=re.S) for line in block.splitlines()]
    assert len(lines) == 6
    for line in lines:
        outcome = mmfed(*shlex.split(line)[1:])
        assert outcome.code == 0, f"{line}\n{outcome.err}"
    assert (tmp_path / "runs" / "once" / "ledger.jsonl").exists()
    assert len(list((tmp_path / "runs" / "once-shared").rglob("ledgers/*.jsonl"))) == 60


def test_the_figures_are_those_of_the_code() -> None:
    assert (
        f"more than {MOST_PAIRED_ITEMS:,} items (`one_shot.items`): {packed_size(MOST_PAIRED_ITEMS):,} numbers" in GUIDE
    )
    shy, enough = (plan_one_shot_local(population=n, epsilon=4.0) for n in (200_000, 300_000))
    assert (shy.cooccurrence_noise, enough.cooccurrence_noise is None) == (None, False)
    assert f"more than {MOST_NOISED_ITEMS:,} items" in GUIDE
    assert f"the {ITEMS_UNDER_NOISE} most popular" in GUIDE
    assert OneShotSection().epsilon_share == 0.5
    assert THRESHOLD == 4.0
    assert (advice.MOST_ITEMS, advice.COVERED) == (MOST_NOISED_ITEMS, ITEMS_UNDER_NOISE)


def test_the_plan_recommends_and_says_why(mmfed: Command) -> None:
    base = ("privacy", "plan", "--rounds", "40", "--epsilon", "4", "--items", "1700")
    told = mmfed(*base, "--population", "10000")
    assert told.code == 0
    assert "recommended       one-shot\n" in told.out
    assert "edge of its noise" in told.out
    tree = json.loads(mmfed(*base, "--population", "100", "--format", "json").out)
    assert tree["advice"]["way"] == "one-shot, popularity alone"
    assert mmfed("privacy", "plan", "--population", "100", "--rounds", "4", "--epsilon", "4").out.count("recomm") == 0


def test_the_plan_of_modes_where_devices_add_the_noise(mmfed: Command) -> None:
    base = ("privacy", "plan", "--rounds", "40", "--epsilon", "4", "--items", "485", "--population", "1000000")
    local = mmfed(*base, "--mode", "user-local")
    assert "added by every device" in local.out
    assert "--set privacy.mode=user-local" in local.out
    shared = mmfed(*base, "--mode", "user-distributed", "--parameters", "5000")
    assert "shared by all devices; upload" in shared.out
    tree = json.loads(mmfed(*base, "--mode", "user-distributed", "--parameters", "5000", "--format", "json").out)
    assert tree["advice"]["plan"]["noises"]["popularity"]["dimension"] == 485
    laplace = mmfed(*base, "--mode", "user-local", "--local-noise", "laplace")
    assert laplace.code != 0
    assert "laplace noise" in laplace.err


def test_record_mode_has_no_release_to_recommend(mmfed: Command) -> None:
    outcome = mmfed(
        "privacy", "plan", "--mode", "record", "--population", "30", "--rounds", "4", "--epsilon", "4", "--items", "9"
    )
    assert outcome.code != 0
    assert "record mode" in outcome.err
