"""Lists of all users at the scale of a catalogue: the best 20 of 100,000 items, exactly."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mmfed.evaluation.protocol import BLOCK_CELLS, index_tie_keys
from mmfed.evaluation.ranking import top_k
from mmfed.types import FloatArray, IntArray
from simulations.benchmarks.timing import cpu_seconds

NAME = "top-20"
ITEMS, WIDTH, K = 100_000, 64, 20
ABOUT = "the best 20 of 100,000 items by products of 64 numbers, users by blocks, as evaluation makes its lists"

Lists = Callable[[], IntArray]


def measured_top_k(
    *, users: int, repetitions: int, faiss: bool, items: int = ITEMS, threads: int = 1
) -> dict[str, Any]:
    """Users per CPU-second; a row of the table. The definition sorts all scores of each user.

    ``difference`` is the share of places in the lists that hold another item.
    """
    generator = np.random.default_rng(0)
    states = generator.standard_normal((users, WIDTH), dtype=np.float32)
    table = generator.standard_normal((items, WIDTH), dtype=np.float32)
    few = states[: max(users // 16, 1)]
    ways: dict[str, tuple[Lists, int]] = {
        "engine": (lambda: _evaluation(states, table), users),
        "definition": (lambda: _sorted(few, table), len(few)),
        "torch": (lambda: _torch(states, table), users),
    }
    skipped = None
    if faiss:
        if importlib.util.find_spec("faiss") is None:
            skipped = "faiss is not installed: pip install faiss-cpu"
        else:
            ways["faiss"] = (_faiss(states, table, threads), users)
    lists = {name: make() for name, (make, _) in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, (make, _) in ways.items():
            seconds[name].append(cpu_seconds(make))
    speed = {name: count / statistics.median(seconds[name]) for name, (_, count) in ways.items()}
    peers: dict[str, Any] = {
        name: {
            "users_per_cpu_second": speed[name],
            "ratio": speed["engine"] / speed[name],
            "of": "cpu",
            "difference": _unequal(lists[name], lists["engine"]),
        }
        for name in ways
        if name not in ("engine", "definition")
    }
    if skipped:
        peers["faiss"] = {"skipped": skipped}
    return {
        "workload": NAME,
        "about": ABOUT,
        "engine": speed["engine"],
        "definition": speed["definition"],
        "ratio": speed["engine"] / speed["definition"],
        "share_of_floor": None,
        "difference": _unequal(lists["engine"][: len(few)], lists["definition"]),
        "peers": peers,
    }


def _evaluation(states: FloatArray, table: FloatArray) -> IntArray:
    ties, target = index_tie_keys(len(table), 0), torch.from_numpy(table)
    block, found = max(1, min(512, BLOCK_CELLS // len(table))), []
    for start in range(0, len(states), block):
        scores = (torch.from_numpy(states[start : start + block]) @ target.T).numpy()
        found.append(top_k(scores, K, ties))
    return np.concatenate(found)


def _sorted(states: FloatArray, table: FloatArray) -> IntArray:
    return np.stack([np.argsort(-(table @ state), kind="stable")[:K] for state in states])


def _torch(states: FloatArray, table: FloatArray) -> IntArray:
    """``torch.topk`` on blocks."""
    target, found = torch.from_numpy(table), []
    for start in range(0, len(states), 128):
        scores = torch.from_numpy(states[start : start + 128]) @ target.T
        found.append(scores.topk(K, dim=1).indices.numpy())
    return np.concatenate(found)


def _faiss(states: FloatArray, table: FloatArray, threads: int) -> Lists:
    """faiss' exact index of inner products, built once; all users in one search, as its guide says."""
    import faiss  # pyright: ignore[reportMissingImports]

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(table.shape[1])
    index.add(table)  # pyright: ignore[reportCallIssue]
    return lambda: index.search(states, K)[1]  # pyright: ignore[reportCallIssue]


def _unequal(lists: IntArray, expected: IntArray) -> float:
    return float((lists != expected).mean())
