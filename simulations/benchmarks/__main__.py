"""How fast the cohort engine is, beside the definition (one user at a time), on one machine in one run.

The update is compared first: a fast wrong answer is worth nothing. Speed is in users per CPU-second, the median of
interleaved repetitions; other work on the machine lowers both columns, so judge by the ratio.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfed.models.base import Recommender
from mmfed.training.cohort import train_cohort
from mmfed.training.reference import train_users
from mmfed.training.update import CohortUpdate
from simulations.benchmarks import population
from simulations.benchmarks.workloads import WORKLOADS, Workload

TOLERANCE = 1e-5
POPULATION = "population"
COLUMNS = ("workload", "engine, users/cpu-s", "definition, users/cpu-s", "ratio", "share of floor", "difference")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table; exit with 1 where an update differs from the definition."""
    names = [*(workload.name for workload in WORKLOADS), POPULATION]
    parser = argparse.ArgumentParser(
        prog="python -m simulations.benchmarks",
        description=__doc__,
        epilog="Example: python -m simulations.benchmarks --quick --only W2 W4\n"
        f"{POPULATION} (a million users on disk) is measured only where it is named: it takes a quarter of an hour.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer users and repetitions: about a minute")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="some of " + ", ".join(names))
    parser.add_argument("--folder", type=Path, help=f"keep the shops of {POPULATION} there for the next time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of PyTorch (default 1)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    peak = peak_flops()
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, {chosen.threads} thread(s), "
        f"Python {platform.python_version()}, PyTorch {torch.__version__}; "
        f"a large matrix product: {peak / 1e9:.0f} GFLOP/s"
    )
    print(machine)
    rows, large = [], None
    if not chosen.only or set(chosen.only) - {POPULATION}:
        print(" | ".join(COLUMNS))
    for workload in WORKLOADS:
        if chosen.only and workload.name not in chosen.only:
            continue
        if chosen.quick:
            workload = replace(workload, users=max(workload.users // 4, 16), few=max(workload.few // 4, 4))
        rows.append(measured(workload, peak, repetitions=2 if chosen.quick else 5))
        print(" | ".join(cells(rows[-1])), flush=True)
    if chosen.only and POPULATION in chosen.only:
        large = population.measured(population.QUICK if chosen.quick else population.FULL, chosen.folder)
        print(" | ".join(population.COLUMNS), *(" | ".join(row) for row in population.table(large)), sep="\n")
        print(f"a round of {large['scale']['cohort']} at most / fewest enrolled: {large['growth']:.2f}")
    if chosen.json:
        figures = {"machine": machine, "rows": rows} | ({} if large is None else {POPULATION: large})
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if chosen.markdown:
        chosen.markdown.write_text(page(machine, rows, large), encoding="utf-8")
    wrong = [row["workload"] for row in rows if not row["difference"] <= TOLERANCE]
    if wrong:
        raise SystemExit(f"the update of {', '.join(wrong)} differs from the definition by more than {TOLERANCE:g}.")


def measured(workload: Workload, peak: float, *, repetitions: int) -> dict[str, Any]:
    """Users per CPU-second of engine and definition, interleaved, medians; and how far their updates differ."""
    config = workload.config()
    model, work = workload.model(config), workload.work(config)
    histories = workload.histories(workload.users)
    few = histories.take(np.linspace(0, workload.users - 1, workload.few).astype(np.int64))
    vectors, some = workload.vectors(model, workload.users), workload.vectors(model, workload.few)
    found = train_cohort(model, few, some, work)
    # In single precision the definition's own rounding is the larger part; but a ReLU at 0 may switch in double.
    exact = train_users(double(model), few, some.double(), work)
    difference = min(relative(found, exact), relative(found, train_users(model, few, some, work)))
    engine, definition = [], []
    for _ in range(repetitions):
        engine.append(workload.users / cpu_seconds(lambda: train_cohort(model, histories, vectors, work)))
        definition.append(workload.few / cpu_seconds(lambda: train_users(model, few, some, work)))
    speed, slow, share = statistics.median(engine), statistics.median(definition), None
    if workload.flops is not None:
        flops = [workload.flops(config, workload.widths, workload.items, length) for length in histories.lengths]
        share = speed * float(np.mean(flops)) / peak
    return {
        "workload": workload.name,
        "about": workload.about,
        "engine": speed,
        "definition": slow,
        "ratio": speed / slow,
        "share_of_floor": share,
        "difference": difference,
    }


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table as text."""
    share = "–" if row["share_of_floor"] is None else f"{row['share_of_floor']:.2f}"
    speeds = [f"{row['engine']:.0f}", f"{row['definition']:.1f}", f"{row['ratio']:.1f}"]
    return [row["workload"], *speeds, share, f"{row['difference']:.1e}"]


def page(machine: str, rows: Sequence[dict[str, Any]], large: Mapping[str, Any] | None = None) -> str:
    """The table as a page of Markdown."""
    lines = [
        "# Performance of the cohort engine",
        "",
        "Written by `python -m simulations.benchmarks`.",
        "",
        machine,
        "",
    ]
    if rows:
        lines += ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
        lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
        lines += ["", *(f"- {row['workload']}: {row['about']}" for row in rows), ""]
        lines += ["All are clipped user by user. The floor counts the products that no way of computing it avoids.", ""]
    if large is not None:
        lines += ["| " + " | ".join(population.COLUMNS) + " |", "|---:|---|" + "---:|" * (len(population.COLUMNS) - 2)]
        lines += ["| " + " | ".join(row) + " |" for row in population.table(large)]
        lines += [
            "",
            f"A round of {large['scale']['cohort']}: × {large['growth']:.2f} at most over the fewest enrolled.",
        ]
        lines += [f"Memory-mapped against in memory, difference of the models: {large['difference']:.1e}.", ""]
    return "\n".join(lines)


def double(model: Recommender) -> Recommender:
    """The same model in double precision."""
    twin = copy.deepcopy(model).double()
    twin.features = model.features.to(torch.float64)
    return twin


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU seconds of this process, all threads."""
    started = time.process_time()
    run()
    return time.process_time() - started


def relative(found: CohortUpdate, expected: CohortUpdate) -> float:
    """Norm of the difference over the norm of the expected update."""

    def norm(tensors: Sequence[Tensor]) -> float:
        return float(torch.stack([one.square().sum() for one in tensors]).sum().sqrt())

    return norm([found.total[name] - value for name, value in expected.total.items()]) / norm(
        [*expected.total.values()]
    )


def peak_flops() -> float:
    """Float32 operations per CPU-second of a large matrix product, the best of ten."""
    left = torch.randn(1024, 1024)
    return 2 * 1024**3 / min(cpu_seconds(lambda: left @ left) for _ in range(10))


if __name__ == "__main__":
    main()
