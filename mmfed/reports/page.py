"""Templates of this folder, rendered with everything from outside escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mmfed.reports.charts import shorten
from mmfed.reports.tables import NOT_COMPUTED, UNDEFINED, Cell, MetricRow, method_kind, method_name, metric_rows

_TEMPLATES = Path(__file__).parent / "templates"
LONGEST_NAME = 48  # characters of a foreign name that are shown; the whole one is in the tooltip


@dataclass(frozen=True)
class MetricGroup:
    """Rows under one heading.

    Attributes:
        places: of the methods that have at least one of the metrics.
    """

    name: str
    rows: list[MetricRow]
    places: list[int]


@dataclass(frozen=True)
class MetricTable:
    """What the table macro prints.

    Attributes:
        k: list length, None for metrics without one.
        methods: columns: name, full, kind, ours.
        groups: rows by heading.
        reasons: why figures are missing, one line each, for readers without a mouse.
    """

    k: int | None
    methods: list[dict[str, Any]]
    groups: list[MetricGroup]
    reasons: list[str]


def render(template: str, **values: Any) -> str:
    """A page of one file: style sheet inside, no script, nothing to load."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8"))
    page = environment.get_template(template).render(style=style, **values)
    return page.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate in a name must not stop the page


def drawing(svg: str) -> Markup:
    """A chart of ``charts``, which escapes its own texts."""
    return Markup(svg)


def metric_table(methods: Sequence[Mapping[str, Any]], k: int | None) -> MetricTable:
    """All metrics at one list length, by group; federated methods first, so that a narrow screen shows them."""
    methods = federated_first(methods)
    rows = metric_rows(methods, k=k)
    groups: dict[str, list[MetricRow]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return MetricTable(
        k,
        [method_head(one) for one in methods],
        [MetricGroup(name, found, _measured(found)) for name, found in groups.items()],
        undefined_reasons(rows),
    )


def _measured(rows: Sequence[MetricRow]) -> list[int]:
    return [
        place for place, cells in enumerate(zip(*(row.cells for row in rows), strict=True)) if any(map(_told, cells))
    ]


def _told(cell: Cell) -> bool:
    return cell.mean is not None or bool(cell.given) or cell.reason != NOT_COMPUTED


def method_head(method: Mapping[str, Any]) -> dict[str, Any]:
    """A method as a column head."""
    name = method_name(method)
    return {
        "name": shorten(name, LONGEST_NAME),
        "full": shorten(name, 400),
        "kind": shorten(method_kind(method), 120),
        "ours": bool(method.get("federated")),
    }


def federated_first(methods: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The methods as a page lists them; otherwise in the given order."""
    return sorted(methods, key=lambda one: not one.get("federated"))


def protocol_warnings(protocol: Any) -> list[str]:
    """What must stand above figures that were not taken under full ranking."""
    if protocol in (None, "full"):
        return []
    return [f"Protocol {shorten(str(protocol), 60)}: not comparable with figures under full ranking of the catalogue."]


def undefined_reasons(rows: Sequence[MetricRow]) -> list[str]:
    """``– Recall of cold items @10: no user for whom it is defined``, each once."""
    lines = [
        f"{UNDEFINED} {row.label}: {shorten(cell.reason, 200)}"
        for row in rows
        for cell in row.cells
        if cell.mean is None and not cell.given and cell.reason != NOT_COMPUTED
    ]
    return list(dict.fromkeys(lines))
