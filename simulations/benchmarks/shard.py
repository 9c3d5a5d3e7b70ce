"""A share of a cohort in a process of its own: ``python -m simulations.benchmarks.shard WORKLOAD USERS PART PARTS …``.

Two of them are how the engine uses two cores: a simulation spreads its users over nodes, each with one thread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmfed.training.cohort import train_cohort
from simulations.benchmarks.peers.problem import Array
from simulations.benchmarks.peers.serve import answer
from simulations.benchmarks.workloads import WORKLOADS


def main() -> None:
    """Serve until the input ends."""
    name, users, part, parts, total, threads = sys.argv[1:]
    answer(lambda: _trainer(name, int(users), int(part), int(parts)), Path(total), int(threads))


def _trainer(name: str, users: int, part: int, parts: int) -> Callable[[], dict[str, Array]]:
    workload = replace(next(one for one in WORKLOADS if one.name == name), users=users)
    config = workload.config()
    model, work = workload.model(config), workload.work(config)
    mine = np.arange(part, users, parts)
    histories, vectors = workload.histories(users).take(mine), workload.vectors(model, users)[mine]

    def train() -> dict[str, Array]:
        return {name: value.numpy() for name, value in train_cohort(model, histories, vectors, work).total.items()}

    return train


if __name__ == "__main__":
    main()
