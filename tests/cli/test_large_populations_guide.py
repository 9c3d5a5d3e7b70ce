"""The commands of docs/large-populations.md run as written, on a smaller population."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from small_shop import Command

from mmfed.config import load_config

ROOT = Path(__file__).resolve().parents[2]
SMALLER = {"--users 1000000": "--users 150", "=4096": "=40", "=20": "=2"}
SMALL_RUN = ["--set", "federation.rounds=2", "--set", "evaluation.bootstrap=10", "--set", "features.modalities=[]"]


def test_the_scenario_draws_everybody_once() -> None:
    config = load_config(ROOT / "simulations" / "million.toml")
    assert config.federation.cohort is not None
    assert 1_000_000 <= config.federation.cohort * config.federation.rounds < 1_010_000


@pytest.mark.slow
def test_guide_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mmfed: Command) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "simulations", tmp_path / "simulations", ignore=shutil.ignore_patterns("benchmarks"))
    text = (ROOT / "docs" / "large-populations.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, flags=re.S) for line in block.splitlines()]
    assert len(lines) == 4
    for line in lines:
        for written, smaller in SMALLER.items():
            line = line.replace(written, smaller)
        more = [*SMALL_RUN, "--set", "data.on_disk=always"] if "simulate" in line else []
        cache = ["--set", f"features.cache={tmp_path / 'cache'}"] if "simulate" in line else []
        outcome = mmfed(*shlex.split(line)[1:], *more, *cache)
        assert outcome.code == 0, f"{line}\n{outcome.err}"
    assert len([one for one in (tmp_path / "cache" / "populations").iterdir() if one.is_dir()]) == 1
