"""The own-content file of a shop folder, docs/own-content.md: ``own_content`` (CSV or Parquet) and ``own_media/``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from mmfed.data.findings import Findings
from mmfed.data.own_content import KINDS, NO_ITEM, OwnContent, own_content
from mmfed.data.schema import Catalogue
from mmfed.data.sources.columns import ColumnReader
from mmfed.data.sources.delimited import find_table, read_table_file
from mmfed.data.sources.encode import codes
from mmfed.data.sources.items import read_files

STEM = "own_content"
MEDIA = "own_media"  # apart from media/, which is public
_COLUMNS = ("user", "time", "item", *KINDS)


def read_own_content(folder: Path, catalogue: Catalogue, findings: Findings) -> OwnContent | None:
    """What people wrote, photographed, said or filmed, every fault in ``findings``; None without a file.

    No finding quotes a cell: where a device tells its faults, this stays private.
    """
    if not any(folder.glob(f"{STEM}.*")):
        return None
    path = find_table(folder, STEM, findings)
    table = None if path is None else read_table_file(path, findings, _COLUMNS)
    if table is None:
        return None
    missing = [name for name in _COLUMNS[:2] if name not in table.frame.columns]
    for name in missing:  # what stands in the first row is not shown: without a header it is content
        what = f"there is no column {name}"
        findings.add("error", table.name, what, f"add a column with the header {name}.", rows=[1])
    if missing:
        return None
    reader = ColumnReader(table, findings, quoting=False)
    if not any(reader.has(kind) for kind in KINDS):
        what = "there is no column of content"
        findings.add("error", table.name, what, f"add one of {', '.join(KINDS)}, or remove the file.")
        return None
    users, times, items = reader.ids("user"), reader.times("time"), reader.ids("item")
    contents = {
        "text": reader.text("text").to_list(),
        "image": _files(reader, folder, "image", "a picture", "pictures"),
        "audio": _files(reader, folder, "audio", "sound", "sound files"),
        "video": _files(reader, folder, "video", "video", "video files"),
    }
    for name, column in (("user", users), ("time", reader.text("time"))):
        what = "the cell is empty; the row is left out"
        reader.report("warning", name, column.is_null(), what, "fill it in, or delete the row.")
    item_index = codes(items, pl.Series(catalogue.item_ids, dtype=pl.String))
    unknown = pl.Series(item_index < 0) & items.is_not_null()
    fix = "add the item there, or empty the cell: a query or photo needs no item."
    reader.report("error", "item", unknown, "{cell} is not in the items file", fix, items)
    filled = np.array([[cell is not None for cell in column] for column in contents.values()], dtype=bool).any(axis=0)
    what = "the row holds no content that can be read; it is left out"
    reader.report(
        "warning",
        None,
        pl.Series(np.logical_not(filled)),
        what,
        f"fill in one of {', '.join(KINDS)}, or delete the row.",
    )
    keep = users.is_not_null().to_numpy() & times.is_not_null().to_numpy() & filled
    names = users.filter(keep).unique(maintain_order=True)
    rows = np.flatnonzero(keep).tolist()
    return own_content(
        user_ids=names.to_list(),
        users=codes(users, names)[keep],
        times=times.filter(keep).to_numpy(),
        items=np.where(item_index < 0, NO_ITEM, item_index)[keep],
        contents={kind: [column[row] for row in rows] for kind, column in contents.items()},
    )


def _files(reader: ColumnReader, folder: Path, column: str, lacking: str, kind: str) -> tuple[Path | None, ...]:
    return read_files(reader, folder, column, lacking=lacking, kind=kind, media=MEDIA, row="row")
