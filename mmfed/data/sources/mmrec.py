"""Folders of DiffMM and MMRec: numbered users and items, a given split, features as ``*_feat.npy``.

DiffMM (Jiang et al. 2024) writes ``train.txt``, ``valid.txt``, ``test.txt`` with "user item" lines; MMRec (Zhou 2023)
writes one tab-separated ``*.inter`` with userID, itemID, rating, timestamp, x_label (0 train, 1 validation, 2 test).
Neither the item numbers nor the order of lines in the text files is time; only ``timestamp`` is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from mmfed.data.schema import Action, Catalogue, Features, Shop, group_by_user
from mmfed.errors import ExitCode, MmfedError

_PARTS = ("train.txt", "valid.txt", "test.txt")
_MODALITIES = {"image": "image_feat.npy", "text": "text_feat.npy", "audio": "audio_feat.npy", "video": "video_feat.npy"}


def load_mmrec(folder: Path) -> Shop:
    """The interactions with their given split (``Shop.parts``) and the features as float32.

    Where there is no timestamp all times are 0.

    Raises:
        MmfedError: a file is missing or damaged, or features and interactions do not belong together.
    """
    tables = sorted(folder.glob("*.inter"))
    rows = _read_inter(tables[0]) if tables else _read_text_files(folder)
    notes: list[str] = []
    if (rows["time"] == 0).all():
        notes.append("the data carry no times: only the given split can be used")
    features = _features(folder, notes)
    heights = {name: len(values.values) for name, values in features.items()}
    item_count = max([_count(rows["item"], folder), *heights.values()])
    for name, height in heights.items():
        if height != item_count:
            raise _fault(folder / _MODALITIES[name], f"holds {height} rows for {item_count} items")
    user_count = _count(rows["user"], folder)
    # One order for rows and parts: by user, then time, ties in input order.
    rows = rows.sort("user", "time", maintain_order=True)
    interactions = group_by_user(
        user_ids=[str(user) for user in range(user_count)],
        users=rows["user"].to_numpy(),
        items=rows["item"].to_numpy(),
        times=rows["time"].to_numpy(),
        actions=rows["action"].to_numpy(),
        values=rows["value"].to_numpy(),
        item_count=item_count,
    )
    catalogue = Catalogue(
        item_ids=tuple(str(item) for item in range(item_count)),
        titles=(None,) * item_count,
        texts=(None,) * item_count,
        images=(None,) * item_count,
        prices=np.full(item_count, np.nan, dtype=np.float32),
        features=features,
    )
    parts = None if rows["part"].null_count() else rows["part"].to_numpy().copy()
    return Shop(name=folder.name, catalogue=catalogue, interactions=interactions, notes=tuple(notes), parts=parts)


def _count(numbers: pl.Series, folder: Path) -> int:
    """How many users or items numbered from 0 there are."""
    count = int(numbers.to_numpy().max()) + 1
    if count > 1_000_000 + 10 * len(numbers):
        raise _fault(
            folder, f"{numbers.name} {count - 1} for {len(numbers)} interactions: the numbers do not run from 0 on"
        )
    return count


def _read_text_files(folder: Path) -> pl.DataFrame:
    read = [
        _read_pairs(folder / name).with_columns(pl.lit(part, pl.Int8).alias("part")) for part, name in enumerate(_PARTS)
    ]
    return pl.concat(read).with_columns(
        pl.lit(0, pl.Int64).alias("time"),
        pl.lit(int(Action.VIEW), pl.Int8).alias("action"),
        pl.lit(float("nan"), pl.Float32).alias("value"),
    )


def _read_pairs(path: Path) -> pl.DataFrame:
    lines = _lines(path)
    pairs = lines.select(
        pl.col("line").str.extract(r"^(\d{1,9})\s+\d{1,9}\s*$").cast(pl.Int64).alias("user"),
        pl.col("line").str.extract(r"^\d{1,9}\s+(\d{1,9})\s*$").cast(pl.Int64).alias("item"),
    )
    return _complete(pairs, path, "is not 'user item' as two whole numbers")


def _read_inter(path: Path) -> pl.DataFrame:
    lines = _lines(path)
    header = str(lines["line"][0]).strip().split("\t")
    for name in ("userID", "itemID"):
        if name not in header:
            raise _fault(path, f"row 1 has no column {name}")
    fields = lines.slice(1).select(pl.col("line").str.strip_chars_end().str.split("\t"))

    def column(name: str, kind: type[pl.DataType] | pl.DataType, absent: float | None) -> pl.Expr:
        if name not in header:
            return pl.lit(absent).cast(kind)
        number = pl.col("line").list.get(header.index(name), null_on_oob=True).cast(pl.Float64, strict=False)
        return number.cast(kind, strict=False)

    rows = fields.select(
        column("userID", pl.Int64, None).alias("user"),
        column("itemID", pl.Int64, None).alias("item"),
        column("timestamp", pl.Int64, 0).alias("time"),
        column("rating", pl.Float32, float("nan")).alias("value"),
        column("x_label", pl.Int8, None).alias("part"),
    ).with_columns(pl.lit(int(Action.RATE if "rating" in header else Action.VIEW), pl.Int8).alias("action"))
    given = "x_label" in header
    rows = _complete(
        rows if given else rows.drop("part"), path, f"does not have numbers in all of {', '.join(header)}", first=2
    )
    if not given:
        return rows.with_columns(pl.lit(None, pl.Int8).alias("part"))
    wrong = rows.select((~pl.col("part").is_between(0, 2)).arg_true()).to_series()
    if len(wrong):
        raise _fault(path, f"row {wrong[0] + 2}, column x_label: not 0, 1 or 2")
    return rows


def _lines(path: Path) -> pl.DataFrame:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise _fault(path, f"byte {error.start + 1} is not UTF-8") from None
    except OSError as error:
        raise _fault(path, f"cannot be read ({error.strerror})") from None
    lines = text.splitlines()
    if not lines:
        raise _fault(path, "the file is empty")
    return pl.DataFrame({"line": lines})


def _complete(rows: pl.DataFrame, path: Path, otherwise: str, *, first: int = 1) -> pl.DataFrame:
    broken = rows.select(
        (pl.any_horizontal(pl.all().is_null()) | (pl.col("user") < 0) | (pl.col("item") < 0)).arg_true()
    ).to_series()
    if len(broken):
        raise _fault(path, f"row {broken[0] + first} {otherwise}")
    if len(rows) == 0:
        raise _fault(path, "holds no interactions")
    return rows


def _features(folder: Path, notes: list[str]) -> dict[str, Features]:
    found: dict[str, Features] = {}
    for modality, name in _MODALITIES.items():
        path = folder / name
        if not path.exists():
            continue
        try:
            values = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise _fault(path, f"is not a readable NumPy array ({str(error).splitlines()[0]})") from None
        if values.ndim != 2 or values.dtype.kind != "f":
            raise _fault(path, f"holds {values.dtype} {values.shape}, not floating numbers [items, d]")
        values = values.astype(np.float32)  # float16 overflows in sums and norms
        present = np.isfinite(values).all(axis=1)
        if not present.all():
            notes.append(f"{name}: {int((~present).sum())} rows with NaN or infinity count as missing")
            values[~present] = 0
        found[modality] = Features(values=values, present=present)
    return found


def _fault(path: Path, what: str) -> MmfedError:
    return MmfedError(
        ExitCode.DATA, f"{path}: {what}.", "restore the file as DiffMM or MMRec publish it, or use data.source = table."
    )
