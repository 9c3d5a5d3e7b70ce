"""The items file of a shop: known columns, and every further column as an attribute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from mmfed.data.findings import Findings
from mmfed.data.pictures import find_picture, path_fault
from mmfed.data.schema import Catalogue, Categorical, Tags
from mmfed.data.sources.columns import ColumnReader
from mmfed.data.sources.delimited import TableFile, read_table_file, require_columns
from mmfed.data.sources.encode import categorical, tags
from mmfed.types import FloatArray

ITEM_COLUMNS = ("item", "title", "text", "description", "price", "category", "store", "image", "audio", "video")
MOST_TAGS = 512
_AUDIENCE = (
    "popularity", "sales", "sold", "units_sold", "views", "clicks", "purchases", "orders", "revenue", "rank",
    "best_seller_rank", "rating", "ratings", "average_rating", "rating_count", "rating_number", "review_count",
    "reviews", "vote_average", "vote_count", "likes",
)  # fmt: skip


def read_items(path: Path, folder: Path, findings: Findings) -> Catalogue | None:
    """The public catalogue, with every fault of the file in ``findings``; None where it cannot be used at all."""
    table = read_table_file(path, findings)
    if table is None or not require_columns(table, ("item",), findings):
        return None
    if table.frame.height == 0:
        findings.add("error", table.name, "there is a header but no row", "add the items of the shop.")
        return None
    reader = ColumnReader(table, findings)
    ids = _item_ids(reader)
    prices = reader.numbers("price", lowest=0).cast(pl.Float32).fill_null(float("nan")).to_numpy()
    images = read_files(reader, folder, "image", lacking="a picture", kind="pictures")
    audios = read_files(reader, folder, "audio", lacking="sound", kind="sound files")
    videos = read_files(reader, folder, "video", lacking="video", kind="video files")
    plain, tagged, numeric = _attributes(reader, table, findings)
    category = _labels(reader.text("category"))[0] if reader.has("category") else None
    store = categorical(reader.text("store")) if reader.has("store") else None
    keep = (ids.is_not_null() & ids.is_first_distinct()).to_numpy()
    text = reader.text("text")
    catalogue = Catalogue(
        item_ids=tuple(ids),
        titles=tuple(reader.text("title")),
        texts=tuple(text.fill_null(reader.text("description"))),
        images=images,
        prices=prices.copy(),
        category=category,
        store=store,
        categorical=plain,
        tags=tagged,
        numeric=numeric,
        audios=audios if reader.has("audio") else (),
        videos=videos if reader.has("video") else (),
    )
    return catalogue if keep.all() else _only_ids(ids.filter(keep))


def _only_ids(ids: pl.Series) -> Catalogue:
    """A stand-in after a fault in the id column, so that the interactions can still be checked against the good ids."""
    none = (None,) * len(ids)
    prices = np.full(len(ids), np.nan, dtype=np.float32)
    return Catalogue(item_ids=tuple(ids), titles=none, texts=none, images=none, prices=prices)


def _item_ids(reader: ColumnReader) -> pl.Series:
    ids = reader.ids("item")
    reader.report("error", "item", ids.is_null(), "the item has no id", "give every item an id.")
    again = ids.is_duplicated() & ~ids.is_first_distinct() & ids.is_not_null()
    reader.report("error", "item", again, "the item {cell} is there already", "keep one row per item.", ids)
    return ids


def read_files(
    reader: ColumnReader, folder: Path, column: str, *, lacking: str, kind: str, media: str = "media", row: str = "item"
) -> tuple[Path | None, ...]:
    """The files a column names; a path that leaves the shop is an error, a file that is not there a warning."""
    text = reader.text(column)
    cells = text.to_list()
    faults = [None if cell is None else path_fault(cell) for cell in cells]
    outside = pl.Series([fault is not None for fault in faults], dtype=pl.Boolean)
    shown = pl.Series(
        [f"{cell!r} {fault}" if fault else None for cell, fault in zip(cells, faults, strict=True)], dtype=pl.String
    )
    reader.report("error", column, outside, "the path leaves the shop: {cell}", f"give a path inside {media}/.", shown)
    web = pl.Series([cell is not None and "://" in cell for cell in cells], dtype=pl.Boolean)
    what = f"{{cell}} is a web address; the {row} counts as without {lacking}"
    reader.report("warning", column, web, what, f"download the {kind} into {media}/.", text)
    followed = [cell if ok else None for cell, ok in zip(cells, ~(outside | web), strict=True)]
    files = tuple(None if cell is None else find_picture(folder, cell, media) for cell in followed)
    lost = pl.Series([c is not None and i is None for c, i in zip(followed, files, strict=True)], dtype=pl.Boolean)
    what = f"there is no file {{cell}}; the {row} counts as without {lacking}"
    reader.report("warning", column, lost, what, f"put it into {media}/, or empty the cell.", text)
    return files


def _attributes(
    reader: ColumnReader, table: TableFile, findings: Findings
) -> tuple[dict[str, Categorical], dict[str, Tags], dict[str, FloatArray]]:
    plain: dict[str, Categorical] = {}
    tagged: dict[str, Tags] = {}
    numeric: dict[str, FloatArray] = {}
    for name in table.frame.columns:
        if name in ITEM_COLUMNS or name.startswith("unnamed:"):
            continue
        if name in _AUDIENCE:
            what = "the column tells what customers did, so it may hold the answers a model is tested on; it is used"
            findings.add(
                "warning", table.name, what, "drop it, unless it was known before the first sale.", column=name
            )
        dtype = table.frame[name].dtype
        if dtype.is_numeric():
            column = table.frame[name].cast(pl.Float32)
            numeric[name] = column.set(column.is_infinite(), None).fill_null(float("nan")).to_numpy().copy()
            continue
        text = reader.text(name)
        filled = text.drop_nulls()
        if len(filled) == 0:
            findings.add("warning", table.name, "the column is empty; it is left out", "fill or drop it.", column=name)
            continue
        values = text.cast(pl.Float32, strict=False)
        values = values.set(values.is_infinite() | values.is_nan(), None)
        unread = values.is_null() & text.is_not_null()
        if not unread.any() or (len(filled) >= 20 and unread.sum() <= 0.05 * len(filled)):
            what = "{cell} is not a number, other cells are; it counts as missing"
            reader.report("warning", name, unread, what, "write a number or leave the cell empty.", text)
            numeric[name] = values.fill_null(float("nan")).to_numpy().copy()
            continue
        labels, left_out = _labels(text)
        if left_out:
            what = f"only the {MOST_TAGS} most frequent labels are used, {left_out} are left out"
            findings.add("warning", table.name, what, "use fewer labels.", column=name)
        if isinstance(labels, Tags):
            tagged[name] = labels
        elif len(labels.names) > max(MOST_TAGS, 0.5 * len(filled)) or len(labels.names) == len(filled) > 20:
            what = f"the column holds {len(labels.names)} different labels on {len(filled)} items; it is left out"
            fix = "drop it, or move its words into the text column."
            findings.add("warning", table.name, what, fix, column=name)
        else:
            plain[name] = labels
    return plain, tagged, numeric


def _labels(text: pl.Series) -> tuple[Categorical | Tags, int]:
    """Tags where a cell holds ``|``, one label per item otherwise; and how many rare tags were left out."""
    if text.str.contains("|", literal=True).any():
        return tags(text, most=MOST_TAGS)
    return categorical(text), 0
