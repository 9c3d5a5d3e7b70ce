"""How fast the cohort engine is, beside the definition (one user at a time), on one machine in one run.

The update is compared first: a fast wrong answer is worth nothing. Speed is in users per CPU-second, the median of
interleaved repetitions; other work on the machine lowers both columns, so judge by the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmfed.training.cohort import train_cohort
from mmfed.training.reference import train_users
from simulations.benchmarks import plot, population, record_level, top_k, workers
from simulations.benchmarks.differences import relative
from simulations.benchmarks.peers import comparison
from simulations.benchmarks.peers.export import representative
from simulations.benchmarks.table import cells, columns, page, reasons
from simulations.benchmarks.timing import cpu_seconds
from simulations.benchmarks.workloads import WORKLOADS, Workload, in_double

TOLERANCE = 1e-5
POPULATION = "population"  # by request only: it takes long, and ten gigabytes of disk
IN_PROCESSES = ("plain", "ray", "pfl")
CHOICES = (*IN_PROCESSES, "opacus", "faiss")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table; exit with 1 where an update differs from the definition."""
    names = [*(workload.name for workload in WORKLOADS), record_level.NAME, top_k.NAME, workers.NAME, POPULATION]
    parser = argparse.ArgumentParser(
        prog="python -m simulations.benchmarks",
        description=__doc__,
        epilog="Example: python -m simulations.benchmarks --quick --only W2 W4",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer users and repetitions: about a minute")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="some of " + ", ".join(names))
    parser.add_argument(
        "--peers", nargs="+", choices=CHOICES, default=(), metavar="PEER", help="compare with " + ", ".join(CHOICES)
    )
    parser.add_argument("--folder", type=Path, help=f"keep the shops of {POPULATION} there for the next time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of PyTorch (default 1)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    parser.add_argument("--plot", type=Path, help="draw the ratios there, as SVG")
    chosen = parser.parse_args(arguments)
    peers = [*chosen.peers, *(["torch"] if "faiss" in chosen.peers else [])]
    torch.set_num_threads(chosen.threads)
    peak = peak_flops()
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, {chosen.threads} thread(s), "
        f"Python {platform.python_version()}, PyTorch {torch.__version__}; "
        f"a large matrix product: {peak / 1e9:.0f} GFLOP/s"
    )
    print(machine)
    rows, large, shared = [], None, None
    if not chosen.only or set(chosen.only) - {POPULATION, workers.NAME}:
        print(" | ".join(columns(peers)))
    for row in _rows(chosen, peak):
        rows.append(row)
        print(" | ".join(cells(row, peers)), flush=True)
    for reason in reasons(rows):
        print(f"skipped, {reason}")
    if not chosen.only or workers.NAME in chosen.only:
        shared = workers.measured(workers.QUICK, rounds=2) if chosen.quick else workers.measured()
        print(*workers.report(shared), sep="\n")
    if chosen.only and POPULATION in chosen.only:
        large = population.measured(population.QUICK if chosen.quick else population.FULL, chosen.folder)
        print(*population.report(large), sep="\n")
    if chosen.json:
        figures = {"machine": machine, "rows": rows} | ({} if large is None else {POPULATION: large})
        figures |= {} if shared is None else {workers.NAME: shared}
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if chosen.markdown:
        chosen.markdown.write_text(page(machine, rows, peers, large, shared), encoding="utf-8")
    if chosen.plot:
        chosen.plot.write_text(plot.ratios(rows, peers), encoding="utf-8")
    compared = [(row["workload"], row) for row in rows]
    compared += [(f"{name} on {row['workload']}", one) for row in rows for name, one in row["peers"].items()]
    wrong = [name for name, one in compared if not one.get("difference", 0.0) <= TOLERANCE]
    if wrong:
        raise SystemExit(f"the update of {', '.join(wrong)} differs from the definition by more than {TOLERANCE:g}.")


def _rows(chosen: argparse.Namespace, peak: float) -> Iterator[dict[str, Any]]:
    """One row after another, as measured."""
    quick, repetitions = chosen.quick, 2 if chosen.quick else 5
    asked = [name for name in chosen.peers if name in IN_PROCESSES]
    for workload in WORKLOADS:
        if chosen.only and workload.name not in chosen.only:
            continue
        if quick:
            workload = replace(workload, users=max(workload.users // 4, 16), few=max(workload.few // 4, 4))
        with ExitStack() as stack:
            compared = None
            if asked and comparison.knows(workload):
                users = comparison.USERS // 4 if quick else comparison.USERS
                compared = stack.enter_context(
                    comparison.Comparison(workload, asked, users=users, threads=chosen.threads)
                )
            yield measured(workload, peak, repetitions=repetitions, compared=compared)
    if not chosen.only or record_level.NAME in chosen.only:
        yield record_level.measured_record(
            users=4 if quick else 16, repetitions=repetitions, opacus="opacus" in chosen.peers
        )
    if not chosen.only or top_k.NAME in chosen.only:
        yield top_k.measured_top_k(
            users=256 if quick else 1024, repetitions=repetitions, faiss="faiss" in chosen.peers, threads=chosen.threads
        )


def measured(
    workload: Workload, peak: float, *, repetitions: int, compared: comparison.Comparison | None = None
) -> dict[str, Any]:
    """Users per CPU-second of engine and definition, interleaved, medians; and how far their updates differ."""
    config = workload.config()
    model, work = workload.model(config), workload.work(config)
    histories = workload.histories(workload.users)
    few = histories.take(representative(histories.lengths, workload.few))
    vectors, some = workload.vectors(model, workload.users), workload.vectors(model, workload.few)
    # In float64, as the definition's own rounding in float32 (it subtracts what it started from) is larger than the
    # engine's; or in float32, where a ReLU at 0 may switch.
    found = train_cohort(model, few, some, work).total
    exact = train_users(in_double(model), few, some.double(), work).total
    difference = min(relative(found, exact), relative(found, train_users(model, few, some, work).total))
    engine, definition = [], []
    for _ in range(repetitions):
        engine.append(workload.users / cpu_seconds(lambda: train_cohort(model, histories, vectors, work)))
        definition.append(workload.few / cpu_seconds(lambda: train_users(model, few, some, work)))
        if compared is not None:
            compared.measure()
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
        "engine_per_second": None if compared is None else compared.engine_per_second(),
        "peers": {} if compared is None else compared.result(speed),
    }


def peak_flops() -> float:
    """Float32 operations per CPU-second of a large matrix product, the best of ten."""
    left = torch.randn(1024, 1024)
    return 2 * 1024**3 / min(cpu_seconds(lambda: left @ left) for _ in range(10))


if __name__ == "__main__":
    main()
