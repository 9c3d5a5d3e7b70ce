"""The process of a peer: ``python -m simulations.benchmarks.peers.serve NAME PROBLEM TOTAL THREADS``.

``NAME`` is a file of this folder with a ``trainer``. It trains once to warm up, writes that sum to TOTAL, then answers
every line that it reads with the seconds of another training: wall clock, and CPU of this process and all it started.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from simulations.benchmarks.peers.problem import Array, Problem

Training = Callable[[], Mapping[str, Array]]


def main() -> None:
    """Serve until the input ends."""
    name, problem, total, threads = sys.argv[1:]
    answer(
        lambda: import_module(f"simulations.benchmarks.peers.{name}").trainer(Problem.load(Path(problem))),
        Path(total),
        int(threads),
    )


def answer(make: Callable[[], Training], total: Path, threads: int) -> None:
    """Train to warm up, then once per line of input; ends the process."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    torch.set_num_threads(threads)
    train = make()
    np.savez(total, allow_pickle=False, **train())
    print(json.dumps({"ready": 1}), file=answers, flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), cpu_of_tree()
        train()
        seconds = {"wall": time.perf_counter() - wall, "cpu": cpu_of_tree() - cpu}
        print(json.dumps(seconds), file=answers, flush=True)
    getattr(train, "close", lambda: None)()
    os._exit(0)  # a library's threads may never end


def cpu_of_tree() -> float:
    """CPU seconds of this process and its living descendants; of this process alone where there is no /proc."""
    own, folder = time.process_time(), Path("/proc")
    if not (folder / "self" / "stat").exists():
        return own
    spent: dict[int, float] = {}
    children: dict[int, list[int]] = {}
    for entry in folder.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        spent[int(entry.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        children.setdefault(int(fields[1]), []).append(int(entry.name))
    waiting, total = list(children.get(os.getpid(), ())), own
    while waiting:
        process = waiting.pop()
        total += spent[process]
        waiting += children.get(process, ())
    return total


if __name__ == "__main__":
    main()
