"""What worker processes gain: wall time of a federated round in one process and in several, equal bit by bit."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mmfed.config import Config, build_config
from mmfed.data.demo_synth import synthesise
from mmfed.federated.coordinator import server_app
from mmfed.federated.participant import client_app
from mmfed.federated.progress import chosen_model
from mmfed.federated.strategy import RoundRecord
from mmfed.records import RunFolder
from mmfed.simulation.inprocess import run_on
from mmfed.simulation.shared_grid import SharedGrid
from simulations.benchmarks.population import SETTINGS as CLASSIC

NAME = "workers"
COUNTS = (1, 2)
WARM_ROUNDS = 2  # in the first, workers load
COLUMNS = ("round", "cohort", *(f"{count} process{'es' if count > 1 else ''}, s" for count in COUNTS), "ratio")


@dataclass(frozen=True)
class Case:
    """A run whose rounds are timed."""

    name: str
    users: int
    items: int
    cohort: int
    settings: Sequence[str]


POOLED = (
    "data.source=table",
    "features.modalities=[]",
    "model.name=mf",
    "training.pretraining=0",
    "privacy.mode=user-central",
)
CASES = (
    Case("W3 large: ids of 100,000 items, user vectors on disk", 8192, 100_000, 4096, CLASSIC),
    Case("W4: pooled history, full softmax over 1,682 items, clipped", 943, 1682, 943, POOLED),
)
QUICK = (
    Case("ids of 1,000 items, user vectors on disk", 300, 1000, 256, CLASSIC),
    Case("pooled history, full softmax over 600 items, clipped", 300, 600, 256, POOLED),
)


class _Clock:
    """Wall seconds of every round, from the draw of the cohort to the server's step."""

    def __init__(self) -> None:
        self.rounds: list[float] = []

    def enrolled(self, population: int, rate: float, noise_multiplier: float | None) -> None: ...

    def validate(self, round_number: int, parameters: Mapping[str, Tensor]) -> None:
        return None

    def round_done(self, record: RoundRecord) -> None:
        self.rounds.append(record.seconds)


def measured(cases: Sequence[Case] = CASES, *, rounds: int = 5) -> list[dict[str, Any]]:
    """One row per case: the median round with each number of processes.

    Raises:
        RuntimeError: the models differ.
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="mmfed-workers.") as temporary:
        for number, case in enumerate(cases):
            folder = Path(temporary) / str(number)
            synthesise(folder / "shop", users=case.users, seed=0, items=case.items)
            walls, models = [], []
            for count in COUNTS:
                config, clock = _config(case, folder, WARM_ROUNDS + rounds), _Clock()
                run = RunFolder(folder / f"with-{count}")
                with SharedGrid(client_app(), nodes=1, state_folder=run.devices, workers=count) as grid:
                    run_on(grid, server_app(run.path, clock), config.to_flat())
                walls.append(statistics.median(clock.rounds[WARM_ROUNDS:]))
                models.append(chosen_model(run, config)[0])
            if not all(value.equal(models[0][name]) for model in models for name, value in model.items()):
                raise RuntimeError(f"{case.name}: the models of {COUNTS} processes differ")
            rows.append({"name": case.name, "cohort": case.cohort, "walls": walls, "ratio": walls[0] / walls[-1]})
    return rows


def _config(case: Case, folder: Path, rounds: int) -> Config:
    more = (
        f"data.path={folder / 'shop'}",
        "data.on_disk=always",
        f"features.cache={folder / 'cache'}",
        f"federation.rounds={rounds}",
        f"federation.cohort={case.cohort}",
        "evaluation.every=1000",
    )
    return build_config({}, [*case.settings, *more])


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row in the order of ``COLUMNS``."""
    walls = [f"{one:.3f}" for one in row["walls"]]
    return [row["name"], f"{row['cohort']:,}", *walls, f"{row['ratio']:.2f}"]


def report(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures as lines of text."""
    return [" | ".join(COLUMNS), *(" | ".join(cells(row)) for row in rows)]


def markdown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures as lines of a Markdown page."""
    return [
        "| " + " | ".join(COLUMNS) + " |",
        "|---|" + "---:|" * (len(COLUMNS) - 1),
        *("| " + " | ".join(cells(row)) + " |" for row in rows),
        "",
        "A round by wall clock, its model equal bit by bit; each process computes with one thread.",
        "",
    ]
