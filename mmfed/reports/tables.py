"""Results as rows: the same figures for the terminal, for Markdown and for the report pages."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmfed.models.baselines.base import KIND_NOTES
from mmfed.reports.metric_info import ACCURACY, COLD, METRICS, RATING, Direction, info_of, split_name

UNDEFINED = "–"
NOT_COMPUTED = "not computed"  # for this method, while another has the metric


_LONGEST_GIVEN = 40
# A list drawn at random is as diverse and novel as can be; being best there means nothing without accuracy.
_MARKS_RANDOM = frozenset({ACCURACY, COLD, RATING})


@dataclass(frozen=True)
class Cell:
    """One figure of one method.

    Attributes:
        mean: None where the figure is undefined; ``reason`` then says why.
        low, high: 95 % interval, None where there is none.
        users: over how many users; None where not recorded.
        reason: why there is no figure or no interval; empty otherwise.
        given: text that stands for the figure (a published range); empty otherwise.
        best: whether no other method is better in this row (none is marked where all are equal).
    """

    mean: float | None
    low: float | None = None
    high: float | None = None
    users: int | None = None
    reason: str = ""
    given: str = ""
    best: bool = False

    @property
    def text(self) -> str:
        """The figure for a table."""
        return self.given or UNDEFINED if self.mean is None else figure(self.mean)

    @property
    def interval(self) -> str:
        """The interval for a table, "" where there is none."""
        return "" if self.low is None or self.high is None else f"[{figure(self.low)}, {figure(self.high)}]"

    @property
    def description(self) -> str:
        """Everything about the figure in one line (tooltips)."""
        if self.mean is None:
            return self.given or f"undefined: {self.reason}"
        parts = [f"{self.mean:.6g}"]
        if self.interval:
            parts.append(f"95 % interval {self.low:.6g} to {self.high:.6g}")
        if self.users is not None:
            parts.append(f"{self.users} users")
        return "; ".join([*parts, *([self.reason] if self.reason else [])])


@dataclass(frozen=True)
class MetricRow:
    """One metric over all methods, in the order the methods were given."""

    metric: str
    label: str
    group: str
    better: Direction | None
    definition: str
    cells: tuple[Cell, ...]


def metric_rows(
    methods: Sequence[Mapping[str, Any]], metrics: Sequence[str] | None = None, *, k: int | None = None
) -> list[MetricRow]:
    """Methods in the form of ``results.json`` as one row a metric.

    Args:
        methods: each with "metrics": {"recall@10": {"mean", "low", "high", "users", "reason"}}; a method with
            "published" true is shown and never marked best, and may hold bare numbers or text.
        metrics: which, in this order; None takes all there are, known ones first.
        k: keep only this list length (metrics without one stay out too); None keeps all.
    """
    names = list(metrics) if metrics is not None else _ordered(name for one in methods for name in _metrics_of(one))
    if k is not None:
        names = [name for name in names if split_name(name)[1] == k]
    return [_row(name, methods) for name in names]


def list_lengths(methods: Sequence[Mapping[str, Any]]) -> list[int]:
    """Every k any metric of the methods was taken at, ascending."""
    found = {split_name(name)[1] for one in methods for name in _metrics_of(one)}
    return sorted(k for k in found if k is not None)


def method_name(method: Mapping[str, Any]) -> str:
    """The name of a method, whatever else its record lacks."""
    return str(method.get("name") or "unnamed")


def method_kind(method: Mapping[str, Any]) -> str:
    """What a method sees, in a few words; "" where not recorded."""
    return str(method.get("kind") or "")


def markdown_table(
    methods: Sequence[Mapping[str, Any]], metrics: Sequence[str] | None = None, *, intervals: bool = True
) -> str:
    """A Markdown table, one method a line; the best figure of a column is bold.

    Args:
        methods, metrics: as for ``metric_rows``.
        intervals: print the 95 % interval beside every figure.
    """
    rows = metric_rows(methods, metrics)
    heads = ["method", "what it sees", *(row.label for row in rows)]
    lines = [_markdown_line(heads), "|---|---|" + "---:|" * len(rows)]
    for index, method in enumerate(methods):
        cells = [_markdown_cell(row.cells[index], intervals=intervals) for row in rows]
        lines.append(_markdown_line([markdown_text(method_name(method)), markdown_text(method_kind(method)), *cells]))
    return "\n".join(lines) + "\n"


def markdown_text(text: str) -> str:
    """Foreign text that cannot break out of a Markdown table cell or start HTML in it."""
    flat = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"([\\|`*_\[\]#~])", r"\\\1", flat).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def figure(value: float) -> str:
    """A number with as many digits as a reader needs: 0.153, 5.54, 17.9, 1204; small ones keep two digits."""
    size = abs(value)
    if size == 0:
        return "0"
    if size < 0.01:
        return f"{value:.2g}" if size >= 0.0001 else f"{value:.1e}"
    return f"{value:.{3 if size < 2 else 2 if size < 10 else 1 if size < 100 else 0}f}"


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        converted = float(value)
    except OverflowError:
        return None
    return converted if math.isfinite(converted) else None


def _metrics_of(method: Mapping[str, Any]) -> Mapping[str, Any]:
    metrics = method.get("metrics")
    return metrics if isinstance(metrics, Mapping) else {}


def _ordered(names: Iterable[str]) -> list[str]:
    order = {name: place for place, name in enumerate(METRICS)}
    unique = list(dict.fromkeys(str(name) for name in names))
    return sorted(unique, key=lambda name: (order.get(split_name(name)[0], len(order)), split_name(name)[1] or 0))


def _row(metric: str, methods: Sequence[Mapping[str, Any]]) -> MetricRow:
    info = info_of(metric)
    cells = [_cell(_metrics_of(method).get(metric)) for method in methods]
    competing = [
        cell.mean
        for cell, method in zip(cells, methods, strict=True)
        if cell.mean is not None and _competes(method, info.group)
    ]
    best = None
    if info.better is not None and len(set(competing)) > 1:
        best = max(competing) if info.better == "higher" else min(competing)
    marked = tuple(
        replace(cell, best=True) if best is not None and cell.mean == best and _competes(method, info.group) else cell
        for cell, method in zip(cells, methods, strict=True)
    )
    return MetricRow(metric, info.label, info.group, info.better, info.definition, marked)


def _competes(method: Mapping[str, Any], group: str) -> bool:
    if method.get("published"):
        return False
    return group in _MARKS_RANDOM or method_kind(method) != KIND_NOTES["no data"]


def _cell(value: Any) -> Cell:
    """A figure as ``Estimate.to_json`` writes it, or a bare number (published figures)."""
    if value is None:
        return Cell(None, reason=NOT_COMPUTED)
    if not isinstance(value, Mapping):
        mean = number(value)
        if mean is None and isinstance(value, str) and value.strip():
            return Cell(None, given=value.strip()[:_LONGEST_GIVEN])
        return Cell(mean, reason="" if mean is not None else "not a number")
    mean, low, high = number(value.get("mean")), number(value.get("low")), number(value.get("high"))
    users = number(value.get("users"))
    reason = str(value.get("reason") or "")
    if mean is None:
        return Cell(None, reason=reason or "no reason recorded")
    whole = low is not None and high is not None
    return Cell(mean, low if whole else None, high if whole else None, None if users is None else int(users), reason)


def _markdown_cell(cell: Cell, *, intervals: bool) -> str:
    text = markdown_text(cell.text) if cell.given else cell.text
    shown = f"**{text}**" if cell.best else text
    return f"{shown} {cell.interval}" if intervals and cell.interval else shown


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
