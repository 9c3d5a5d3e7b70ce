"""Record-level DP-SGD on the tower of W1: the cohort engine on windows, Opacus' gradients of our own, Opacus' hooks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfed.models.base import Recommender
from mmfed.training.batch import Histories
from mmfed.training.record import SECONDS_A_DAY, Device, train_devices_privately, windows
from mmfed.training.update import LocalWork
from simulations.benchmarks.differences import relative
from simulations.benchmarks.peers.export import representative
from simulations.benchmarks.peers.opacus_hooks import OpacusUsers
from simulations.benchmarks.timing import cpu_seconds
from simulations.benchmarks.workloads import RECORD, Workload, in_double

NAME = RECORD.name

Total = dict[str, Tensor]


def measured_record(*, users: int, repetitions: int, opacus: bool, workload: Workload = RECORD) -> dict[str, Any]:
    """Users per CPU-second, the engine on all together as in a simulation, others one by one; a row of the table."""
    config = workload.config()
    model, work = workload.model(config), workload.work(config)
    histories = workload.histories(workload.users)
    records = _records(histories.take(representative(histories.lengths, users)), work)
    reference = replace(work, training=work.training.model_copy(update={"engine": "reference"}))
    ways: dict[str, Callable[[], Total]] = {
        "engine": lambda: _sum(model, records, work),
        "definition": lambda: _sum(model, records, reference),
    }
    if opacus:
        hooks = OpacusUsers(model, config.model, work)
        ways["opacus"] = lambda: _total([hooks.train(one, sample_key) for sample_key, one in enumerate(records)])
    totals = {name: train() for name, train in ways.items()}
    exact = _sum(in_double(model), records, reference)  # the definition's own rounding is larger than the engine's
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, train in ways.items():
            seconds[name].append(cpu_seconds(train))
    speed = {name: users / statistics.median(taken) for name, taken in seconds.items()}
    row = {
        "workload": NAME,
        "about": workload.about,
        "engine": speed["engine"],
        "definition": speed["definition"],
        "ratio": speed["engine"] / speed["definition"],
        "share_of_floor": None,
        "difference": relative(totals["engine"], exact),
        "peers": {},
    }
    if opacus:
        row["peers"]["opacus"] = {
            "users_per_cpu_second": speed["opacus"],
            "ratio": speed["engine"] / speed["opacus"],
            "of": "cpu",
            "difference": relative(totals["opacus"], totals["definition"]),
        }
    return row


def _records(histories: Histories, work: LocalWork) -> list[Histories]:
    """The windows of each user: a full window of interactions per span."""
    privacy, found = work.privacy, []
    for user, key in enumerate(histories.keys):
        items = histories.items[histories.indptr[user] : histories.indptr[user + 1]]
        span = SECONDS_A_DAY * privacy.window_days
        times = (np.arange(len(items)) // privacy.window * span + np.arange(len(items)) % privacy.window).astype(
            np.int64
        )
        found.append(windows(items, times, key=int(key), window=privacy.window, days=privacy.window_days))
    return found


def _sum(model: Recommender, records: Sequence[Histories], work: LocalWork) -> Total:
    devices = [Device(one, _silent, sample_key) for sample_key, one in enumerate(records)]
    return _total(train_devices_privately(model, devices, work, noise_multiplier=0.0))


def _silent(size: int, purpose: str) -> np.ndarray:
    del purpose
    return np.zeros(size)


def _total(changes: Sequence[Total]) -> Total:
    return {name: torch.stack([change[name] for change in changes]).sum(0) for name in changes[0]}
