"""The file of campaigns, docs/applications.md: CSV or Parquet, one advertised item or category a row."""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
import polars as pl

from mmfed.applications.campaigns import Campaign
from mmfed.data.findings import Findings
from mmfed.data.labels import category_matrix
from mmfed.data.schema import Catalogue
from mmfed.data.sources.columns import ColumnReader
from mmfed.data.sources.delimited import read_table_file, require_columns
from mmfed.errors import ExitCode, MmfedError

_COLUMNS = ("campaign", "item", "category", "text", "cap")


def read_campaigns(path: Path, catalogue: Catalogue) -> tuple[Campaign, ...]:
    """The campaigns of a file, in the order of their first rows.

    Raises:
        MmfedError: the first fault, with file, row, column and mend.
    """
    if not path.is_file():
        raise MmfedError(ExitCode.DATA, f"{path}: no such file.", "give the file of campaigns (docs/applications.md).")
    findings = Findings()
    table = read_table_file(path, findings, _COLUMNS)
    campaigns: tuple[Campaign, ...] = ()
    if table is not None and require_columns(table, _COLUMNS[:1], findings):
        campaigns = _campaigns(table.name, ColumnReader(table, findings), catalogue, findings)
    findings.raise_first_error(listed_by=None)
    return campaigns


def _campaigns(file: str, reader: ColumnReader, catalogue: Catalogue, findings: Findings) -> tuple[Campaign, ...]:
    if not reader.has("item") and not reader.has("category"):
        findings.add(
            "error", file, "there is no column item and none category", "add one that says what is advertised."
        )
        return ()
    names, items, categories = reader.ids("campaign"), reader.ids("item"), reader.text("category")
    caps, texts = reader.numbers("cap", lowest=1, missing_is="leave the cell empty for no limit"), reader.text("text")
    reader.report("error", "campaign", names.is_null(), "the cell is empty", "name the campaign, or delete the row.")
    both = items.is_not_null() & categories.is_not_null()
    reader.report("error", None, both, "item and category are both filled in", "write them in two rows.")
    neither = items.is_null() & categories.is_null()
    reader.report("error", None, neither, "nothing is advertised", "fill in item or category, or delete the row.")
    broken = caps.is_not_null() & (caps != caps.floor())
    reader.report("error", "cap", broken, "{cell} is not a whole number", "write 1, 2, 3, …", reader.text("cap"))
    by_id = {item: (index,) for index, item in enumerate(catalogue.item_ids)}
    _report_unknown(reader, "item", items, by_id)
    by_category = _items_by_category(catalogue)
    _report_unknown(reader, "category", categories, by_category)
    for column, cells in (("text", texts), ("cap", caps)):
        _report_differing(reader, column, names, cells)
    if names.len() == 0:
        findings.add("error", file, "there is no campaign in it", "write at least one row below the header.")
    if findings.errors:
        return ()
    advertised: dict[str, set[int]] = {}
    for name, item, category in zip(names, items, categories, strict=True):
        advertised.setdefault(name, set()).update(by_id[item] if item is not None else by_category[category])
    text, cap = _first_filled(names, texts), _first_filled(names, caps)
    return tuple(
        Campaign(name, text.get(name), tuple(sorted(one)), int(cap[name]) if name in cap else None)
        for name, one in advertised.items()
    )


def _items_by_category(catalogue: Catalogue) -> dict[str, tuple[int, ...]]:
    matrix, column = category_matrix(catalogue), catalogue.category
    if matrix is None or column is None:
        return {}
    members = (np.flatnonzero(matrix[:, place]).tolist() for place in range(len(column.names)))
    return {name: tuple(items) for name, items in zip(column.names, members, strict=True) if items}


def _report_unknown(reader: ColumnReader, column: str, cells: pl.Series, known: dict[str, tuple[int, ...]]) -> None:
    unknown = cells.is_not_null() & ~cells.is_in(list(known))
    if not unknown.any():
        return
    close = difflib.get_close_matches(cells.filter(unknown)[0], list(known), n=1)
    told = f"write {close[0]}?" if close else f"write one such as {next(iter(known))}." if known else "leave it empty."
    reader.report("error", column, unknown, f"the shop has no {column} {{cell}}", told, cells)


def _report_differing(reader: ColumnReader, column: str, names: pl.Series, cells: pl.Series) -> None:
    """A campaign's text and cap may stand in one of its rows or in all, but are one."""
    first = _first_filled(names, cells)
    differing = [cell is not None and cell != first.get(name, cell) for name, cell in zip(names, cells, strict=True)]
    what = f"the campaign has another {column} above"
    reader.report("error", column, pl.Series(differing, dtype=pl.Boolean), what, "write it once for each campaign.")


def _first_filled(names: pl.Series, cells: pl.Series) -> dict:
    found: dict = {}
    for name, cell in zip(names, cells, strict=True):
        if name is not None and cell is not None:
            found.setdefault(name, cell)
    return found
