"""Real runs, small enough for a test, in every privacy mode."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmfed.config import build_config
from mmfed.records import RunFolder
from mmfed.simulation.run import simulate


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    folder = tmp_path_factory.mktemp("runs")
    made = {}
    for mode in ("none", "user-central", "record"):
        config = build_config(
            {
                "run": {"name": mode, "folder": str(folder)},
                "data": {"users": 40},
                "features": {"modalities": ["attributes"], "cache": str(folder / "cache")},
                "federation": {"rounds": 3},
                "training": {"pretraining": 20},
                "privacy": {"mode": mode},
                "evaluation": {"every": 1, "bootstrap": 50},
            }
        )
        made[mode] = simulate(config).run
    return made


@pytest.fixture
def changed(runs: dict[str, RunFolder], tmp_path: Path) -> Callable[..., RunFolder]:
    """A copy of a run, with files changed: ``changed("none", results=change)``."""

    def copy(mode: str, *, results: Callable[[dict[str, Any]], None] | None = None) -> RunFolder:
        run = RunFolder(tmp_path / mode)
        shutil.copytree(runs[mode].path, run.path)
        if results is not None:
            tree = json.loads(run.results.read_text(encoding="utf-8"))
            results(tree)
            run.results.write_text(json.dumps(tree), encoding="utf-8")
        return run

    return copy
