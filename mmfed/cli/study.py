"""How the tables of cold-start and modalities are shown and written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmfed.cli.terminal import Format, emit, is_narrow, say, show

if TYPE_CHECKING:
    from mmfed.simulation.study import StudyResult


def show_study(result: StudyResult, title: str, output: Format) -> None:
    """Tables, promise and notes on standard output (or the JSON), and the Markdown where the scenario wants it."""
    from mmfed.cli.figures import say_promise

    written = [result.file, *_markdown(result, title)]
    if output is Format.JSON:
        emit({"folder": str(result.folder), **result.study})
        return
    study = result.study
    say(f"\n{study['name']}: shop {study['shop']}, {study['users']:,} users, {study['items']:,} items.")
    for one in study["tables"]:
        say(f"\n{one['title']}\n")
        _show_table(one)
        say(f"\n{one['about']}")
    say(f"\nSplit: {study['split']}. 95 % intervals over users; one seed ({study['seed']}).")
    say_promise(study["privacy"])
    for note in study["notes"]:
        say(f"Note: {note.rstrip('.')}.")
    say("\nWritten: " + ", ".join(str(path) for path in written))


def _show_table(one: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from mmfed.cli.figures import figure

    narrow = is_narrow()
    table = Table(box=None, pad_edge=False, padding=(0, 1 if narrow else 2, 0, 0), header_style="bold")
    table.add_column("")
    for title in one["columns"].values():
        table.add_column(title)
    if not narrow:
        table.add_column("sees")
    for row in one["rows"]:
        # Intervals of more than three columns do not fit on a line; they are in the JSON.
        crowded = len(one["columns"]) > 3
        cells = [row["metrics"].get(metric) for metric in one["columns"]]
        shown = [{"mean": cell["mean"]} if crowded and cell else cell for cell in cells]
        figures = [Text(figure(cell, narrow=narrow)) for cell in shown]
        table.add_row(Text(row["name"]), *figures, *([] if narrow else [Text(row["kind"])]))
    show(table)


def _markdown(result: StudyResult, title: str) -> list[Path]:
    if result.markdown is None:
        return []
    from mmfed.records import write_text
    from mmfed.reports.study_tables import study_markdown

    write_text(result.markdown, study_markdown(result.study, title))
    return [result.markdown]
