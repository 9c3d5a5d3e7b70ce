"""The tables of ``mmfed cold-start`` and ``mmfed modalities`` as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmfed.reports.tables import markdown_text


def study_markdown(study: Mapping[str, Any], title: str) -> str:
    """One page: every table with what it measures, the split, the promise and the notes.

    Args:
        study: as written to JSON (``simulation.study``).
    """
    lines = [f"# {title}: {markdown_text(str(study['shop']))}", ""]
    lines += [f"{study['users']:,} users, {study['items']:,} items. Split: {markdown_text(study['split'])}.", ""]
    for table in study["tables"]:
        lines += [f"## {markdown_text(table['title'])}", "", markdown_text(table["about"]), ""]
        lines += [_line("", *(markdown_text(title.replace("\n", ", ")) for title in table["columns"].values()), "sees")]
        lines += [_line("---", *("---:" for _ in table["columns"]), "---")]
        for row in table["rows"]:
            figures = (_figure(row["metrics"].get(metric)) for metric in table["columns"])
            lines.append(_line(markdown_text(row["name"]), *figures, markdown_text(row["kind"])))
        lines.append("")
    lines += [f"Means over users with 95 % bootstrap intervals; one seed ({study['seed']}).", ""]
    lines += [f"Privacy: {markdown_text(study['privacy']['sentence'])}", ""]
    lines += [f"- {markdown_text(note)}" for note in study["notes"]]
    return "\n".join(lines).rstrip() + "\n"


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _figure(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None or estimate["mean"] is None:
        return "–"
    mean = f"{estimate['mean']:.3f}"
    return mean if estimate["low"] is None else f"{mean} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
