"""The engine's speed over each peer's as bars, one group per workload: an SVG file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from simulations.benchmarks.table import PEERS

WIDTH, LEFT, RIGHT, BAR, GAP, TOP, BOTTOM = 760, 290, 60, 18, 12, 46, 34
COLOURS = {
    "definition": "#6b7280", "plain": "#2563eb", "ray": "#d97706", "pfl": "#059669", "opacus": "#9333ea",
    "faiss": "#dc2626", "torch": "#0891b2",
}  # fmt: skip


def ratios(rows: Sequence[dict[str, Any]], peers: Sequence[str]) -> str:
    """Bars on a logarithmic axis, with a line where both are equally fast."""
    bars = [(row["workload"], name, value) for row in rows for name, value in _of(row, peers)]
    values = [value for _, _, value in bars] or [1.0]
    low = math.floor(math.log10(min(*values, 0.5, 1.0)))
    high = math.ceil(math.log10(max(*values, 10.0, 1.0)))

    def x(value: float) -> float:
        return round(LEFT + (math.log10(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)

    parts, y, before = [], float(TOP), None
    for workload, name, value in bars:
        if workload != before:
            y += GAP if before is not None else 0
            before = workload
        label = f"{workload}, {'definition' if name == 'definition' else PEERS[name]}"
        start, end = sorted((x(1.0), x(value)))
        parts.append(f'<text x="{LEFT - 8}" y="{y + BAR - 5}" text-anchor="end">{escape(label)}</text>')
        parts.append(
            f'<rect x="{start}" y="{y + 2}" width="{max(end - start, 1):.1f}" height="{BAR - 4}" '
            f'fill="{COLOURS[name]}"/>'
        )
        parts.append(f'<text x="{end + 5}" y="{y + BAR - 5}">{value:.3g}×</text>')
        y += BAR
    axis = []
    for power in range(low, high + 1):
        place, strong = x(10.0**power), "#111827" if power == 0 else "#d1d5db"
        axis.append(f'<line x1="{place}" x2="{place}" y1="{TOP - 6}" y2="{y + 4}" stroke="{strong}"/>')
        axis.append(f'<text x="{place}" y="{y + 20}" text-anchor="middle">{10.0**power:g}×</text>')
    title = "How many times as fast as others the cohort engine is"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + BOTTOM}" role="img" '
        f'aria-label="{title}" font-family="sans-serif" font-size="12">'
        f'<rect width="{WIDTH}" height="{y + BOTTOM}" fill="#ffffff"/>'
        f'<text x="{LEFT}" y="22" font-size="15">{title}</text>{"".join(axis)}{"".join(parts)}</svg>\n'
    )


def _of(row: dict[str, Any], peers: Sequence[str]) -> list[tuple[str, float]]:
    found = [("definition", row["ratio"])]
    found += [(name, row["peers"][name]["ratio"]) for name in peers if "ratio" in row["peers"].get(name, {})]
    return [(name, value) for name, value in found if math.isfinite(value) and value > 0]
