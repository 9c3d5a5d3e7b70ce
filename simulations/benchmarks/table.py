"""The figures as text: one row per workload, one column per peer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simulations.benchmarks import population, workers

COLUMNS = ("workload", "engine, users/cpu-s", "definition, users/cpu-s", "ratio", "share of floor", "difference")
PEERS = {
    "plain": "plain loop",
    "ray": "Flower Ray, one message per user",
    "pfl": "pfl-research 0.6",
    "opacus": "Opacus hooks",
    "faiss": "faiss flat",
    "torch": "torch.topk",
}


def columns(peers: Sequence[str]) -> list[str]:
    """Heads of the columns."""
    return [*COLUMNS, *(f"against {PEERS[name]}" for name in peers)]


def cells(row: dict[str, Any], peers: Sequence[str] = ()) -> list[str]:
    """A row of the table as text; a peer's cell is the engine's speed over its own, and that speed."""
    share = "–" if row["share_of_floor"] is None else f"{row['share_of_floor']:.2f}"
    speeds = [f"{row['engine']:.0f}", f"{row['definition']:.1f}", f"{row['ratio']:.1f}"]
    found = [row["workload"], *speeds, share, f"{row['difference']:.1e}"]
    return found + [_cell(row["peers"].get(name)) for name in peers]


def _cell(peer: dict[str, Any] | None) -> str:
    if peer is None:
        return "–"
    if "skipped" in peer:
        return "skipped"
    if peer["of"] == "wall":
        return f"{peer['ratio']:.1f}× by wall ({peer['users_per_second']:.0f}/s)"
    return f"{peer['ratio']:.1f}× ({peer['users_per_cpu_second']:.0f})"


def reasons(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Why peers were skipped, one line each."""
    found = {
        f"{PEERS[name]}: {peer['skipped']}" for row in rows for name, peer in row["peers"].items() if "skipped" in peer
    }
    return sorted(found)


def page(
    machine: str,
    rows: Sequence[dict[str, Any]],
    peers: Sequence[str] = (),
    large: Mapping[str, Any] | None = None,
    shared: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """The table as a page of Markdown."""
    heads = columns(peers)
    lines = [
        "# Performance of the cohort engine",
        "",
        "Written by `python -m simulations.benchmarks`.",
        "",
        machine,
        "",
    ]
    if rows:
        lines += ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
        lines += ["| " + " | ".join(cells(row, peers)) + " |" for row in rows]
        lines += ["", *(f"- {row['workload']}: {row['about']}" for row in rows), ""]
        lines += [*(f"- skipped, {reason}" for reason in reasons(rows)), ""] if reasons(rows) else []
        lines += ["All are clipped user by user. The floor counts the products that no way of computing it avoids.", ""]
    if peers:
        lines += [
            "A peer's column holds the engine's speed divided by the peer's, and the peer's users per CPU-second. "
            "Flower Ray is compared by wall clock on two cores, the engine as two processes with half of the users "
            "each. Settings of the peers: `simulations/benchmarks/peers/`.",
            "",
        ]
    if shared is not None:
        lines += workers.markdown(shared)
    if large is not None:
        lines += population.markdown(large)
    return "\n".join(lines)
