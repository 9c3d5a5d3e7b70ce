"""What a large population costs: a shop of up to a million users on disk, trained in cohorts.

Each figure comes from a process of its own, so that its peak memory is its own. A run from memory-mapped files is
compared with one from memory first.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfed.config import Config, build_config
from mmfed.data.demo_synth import synthesise
from mmfed.federated.coordinator import server_app
from mmfed.federated.device_store import DeviceStore
from mmfed.federated.participant import client_app
from mmfed.federated.progress import chosen_model
from mmfed.federated.strategy import RoundRecord
from mmfed.federated.workspace import load_workspace
from mmfed.records import RunFolder
from mmfed.simulation.inprocess import run_inprocess

TOLERANCE = 1e-6
WARM_ROUNDS = 2  # the first rounds load libraries and touch pages for the first time
SETTINGS = (
    "data.source=table",
    "features.modalities=[]",
    "model.name=mf",
    "model.history=0",
    "model.private_user_vector=true",
    "model.dimensions=32",
    "training.objective=bce",
    "training.negatives=4",
    "training.epochs=1",
    "training.positions=32",
    "training.history_dropout=0",
    "training.auxiliary_weight=0",
    "training.learning_rate=0.05",
    "privacy.mode=none",
)
COLUMNS = (
    "users", "what", "load, cpu-s", "rounds", "cohort", "a round, cpu-s", "gather, ms", "scatter, ms", "all, cpu-min",
    "peak, MiB",
)  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """How large the measurement is.

    Attributes:
        enrolled: population sizes of the rounds with one cohort size.
        cohort: their planned cohort.
        rounds: of them, measured after ``WARM_ROUNDS``.
        passes: how often each size takes its turn; the growth is the median over them.
        epoch, epoch_cohort: users of the run that draws as many as there are, and its cohort.
        items: size of the catalogue.
    """

    enrolled: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    cohort: int = 4096
    rounds: int = 8
    epoch: int = 1_000_000
    epoch_cohort: int = 8192
    items: int = 100_000
    passes: int = 3


FULL, QUICK = Scale(), Scale((1_000, 4_000), 256, 3, 4_000, 1024, 600, 1)


def measured(scale: Scale, folder: Path | None = None) -> dict[str, Any]:
    """All figures of a scale; shops and runs are kept in ``folder``, or nowhere.

    Raises:
        RuntimeError: a run from disk gives another model than one from memory, or a process fails.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="mmfed-population.") as temporary:
            return measured(scale, Path(temporary))
    difference = disk_against_memory(folder)
    if not difference <= TOLERANCE:
        raise RuntimeError(f"the model from memory-mapped files differs by {difference:.1e} from that from memory")
    rows, sizes = [], sorted(scale.enrolled)
    shops = {users: folder / f"shop-{users}-{scale.items}" for users in sorted({*sizes, scale.epoch})}
    for users, shop in shops.items():
        started = time.process_time()
        if not shop.exists():
            synthesise(shop, users=users, seed=0, items=scale.items)
        rows.append({"users": users, "what": "write the shop", "all": time.process_time() - started})
        rows.append(_child(shop, users, "build the files", rounds=0, cohort=scale.cohort))
    # Sizes take turns: the machine is then as busy for one as for the others.
    passes = [
        [
            _child(shops[users], users, "rounds", rounds=WARM_ROUNDS + scale.rounds, cohort=scale.cohort)
            for users in sizes
        ]
        for _ in range(scale.passes)
    ]
    for place in range(len(sizes)):
        same = [one[place] for one in passes]
        medians = {name: statistics.median(one[name] for one in same) for name in same[0] if name != "what"}
        rows.append({**same[0], **medians, "peak": max(one["peak"] for one in same)})
    rounds = math.ceil(scale.epoch / scale.epoch_cohort)
    rows.append(_child(shops[scale.epoch], scale.epoch, "an epoch", rounds=rounds, cohort=scale.epoch_cohort))
    growth = statistics.median(one[-1]["round"] / one[0]["round"] for one in passes)
    return {"scale": asdict(scale), "difference": difference, "rows": rows, "growth": growth}


def disk_against_memory(folder: Path) -> float:
    """Relative difference between the models of two rounds, one run reading memory-mapped files, the other memory."""
    shop = folder / "shop-small"
    if not shop.exists():
        synthesise(shop, users=200, seed=0)
    models = []
    for where in ("always", "never"):
        with tempfile.TemporaryDirectory(dir=folder) as run:
            config = _config(shop, rounds=2, cohort=100, on_disk=where)
            _run(config, Path(run), None)
            models.append(chosen_model(RunFolder(Path(run)), config)[0])
    return _relative(*models)


def _relative(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    change = torch.cat([(found[name] - value).double().flatten() for name, value in expected.items()])
    return float(change.norm() / torch.cat([value.double().flatten() for value in expected.values()]).norm())


def table(found: Mapping[str, Any]) -> list[list[str]]:
    """The rows as text, one list per row in the order of ``COLUMNS``."""

    def shown(row: Mapping[str, Any], name: str, digits: int, factor: float = 1.0) -> str:
        return f"{row[name] * factor:,.{digits}f}" if row.get(name) is not None else "–"

    return [
        [
            f"{row['users']:,}",
            row["what"],
            shown(row, "load", 1),
            shown(row, "rounds", 0),
            shown(row, "cohort", 0),
            shown(row, "round", 2),
            shown(row, "gather", 1, 1000),
            shown(row, "scatter", 1, 1000),
            shown(row, "all", 2, 1 / 60),
            shown(row, "peak", 0),
        ]
        for row in found["rows"]
    ]


def _config(shop: Path, *, rounds: int, cohort: int, on_disk: str = "always") -> Config:
    more = (
        f"data.path={shop}",
        f"data.on_disk={on_disk}",
        f"features.cache={shop.parent / 'cache'}",
        f"federation.rounds={max(rounds, 1)}",
        f"federation.cohort={cohort}",
    )
    return build_config({}, [*SETTINGS, *more])


class _Clock:
    """CPU seconds of every round, its checkpoint included."""

    def __init__(self) -> None:
        self.rounds: list[float] = []
        self._last = 0.0

    def enrolled(self, population: int, rate: float, noise_multiplier: float | None) -> None:
        self._last = time.process_time()

    def validate(self, round_number: int, parameters: Mapping[str, Tensor]) -> None:
        return None

    def round_done(self, record: RoundRecord) -> None:
        now = time.process_time()
        self.rounds.append(now - self._last)
        self._last = now


def _run(config: Config, run: Path, clock: _Clock | None) -> None:
    server = server_app(run, clock)
    run_inprocess(server, client_app(), nodes=1, state_folder=run / "devices", run_config=config.to_flat())


def _child(shop: Path, users: int, what: str, *, rounds: int, cohort: int) -> dict[str, Any]:
    asked = json.dumps({"shop": str(shop), "rounds": rounds, "cohort": cohort, "threads": torch.get_num_threads()})
    done = subprocess.run(
        [sys.executable, "-m", "simulations.benchmarks.population", asked], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{what} of {users} users failed: {done.stderr[-2000:]}")
    return {"users": users, "what": what, **json.loads(done.stdout.splitlines()[-1])}


def _measured_here(shop: Path, rounds: int, cohort: int) -> dict[str, Any]:
    """Load, and train ``rounds`` rounds; figures of this process from its start."""
    started, config, clock = time.process_time(), _config(shop, rounds=rounds, cohort=cohort), _Clock()
    workspace = load_workspace(config)
    row: dict[str, Any] = {"load": time.process_time() - started}
    if rounds:
        with tempfile.TemporaryDirectory(dir=shop.parent) as run:
            _run(config, Path(run), clock)
            row |= {"rounds": rounds, "cohort": cohort, "round": statistics.median(clock.rounds[WARM_ROUNDS:] or [0])}
            row |= _state_times(Path(run) / "store", workspace.shop.interactions.user_count, cohort)
    return row | {"all": time.process_time(), "peak": peak_mebibytes()}


def _state_times(folder: Path, users: int, cohort: int) -> dict[str, float]:
    """Median wall seconds of reading and of durably writing the vectors of a cohort, in a store of everybody's."""
    generator, gather, scatter = np.random.default_rng(0), [], []
    store = DeviceStore(folder, users=users, dimensions=32)
    for number in range(1, 6):
        chosen = np.sort(generator.choice(users, size=min(cohort, users), replace=False))
        started = time.perf_counter()
        vectors = store.before(chosen, number)
        gather.append(time.perf_counter() - started)
        store.put(chosen, number, vectors + 1)
        scatter.append(time.perf_counter() - started - gather[-1])
    return {"gather": statistics.median(gather), "scatter": statistics.median(scatter)}


def peak_mebibytes() -> float:
    """Most memory this process held at once, mapped files included (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main(arguments: Sequence[str]) -> None:
    """One measurement in this process; asked and answered in JSON."""
    asked = json.loads(arguments[0])
    torch.set_num_threads(asked["threads"])
    sys.stdout.write(json.dumps(_measured_here(Path(asked["shop"]), asked["rounds"], asked["cohort"])) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])


def report(large: Mapping[str, Any]) -> list[str]:
    """The figures as lines of text."""
    rows = [" | ".join(row) for row in table(large)]
    return [" | ".join(COLUMNS), *rows, _growth(large)]


def markdown(large: Mapping[str, Any]) -> list[str]:
    """The figures as lines of a Markdown page."""
    return [
        "| " + " | ".join(COLUMNS) + " |",
        "|---:|---|" + "---:|" * (len(COLUMNS) - 2),
        *("| " + " | ".join(row) + " |" for row in table(large)),
        "",
        _growth(large),
        f"Memory-mapped against in memory, difference of the models: {large['difference']:.1e}.",
        "",
    ]


def _growth(large: Mapping[str, Any]) -> str:
    return f"A round of {large['scale']['cohort']}: × {large['growth']:.2f} with most over fewest enrolled."
