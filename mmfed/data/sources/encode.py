"""Strings to codes: the label columns of a catalogue and the user and item numbers of interactions."""

from __future__ import annotations

import numpy as np
import polars as pl

from mmfed.data.schema import Categorical, Tags
from mmfed.types import IntArray


def codes(labels: pl.Series, names: pl.Series) -> IntArray:
    """[rows] int32 index of each label in ``names`` (unique); -1 where it is null or not among them."""
    numbered = labels.cast(pl.Enum(names), strict=False).to_physical()
    return numbered.cast(pl.Int32).fill_null(-1).to_numpy().copy()


def categorical(labels: pl.Series) -> Categorical:
    """A string column [items] as codes into its sorted labels; null is -1."""
    names = labels.drop_nulls().unique().sort()
    return Categorical(codes=codes(labels, names), names=tuple(names))


def tags(labels: pl.Series, *, most: int) -> tuple[Tags, int]:
    """A string column [items] of ``|`` separated labels, its ``most`` frequent ones, and how many were left out."""
    rows = pl.DataFrame({"label": labels.fill_null("").str.split("|")}).with_row_index("item").explode("label")
    rows = rows.with_columns(pl.col("label").str.strip_chars()).filter(pl.col("label") != "").unique(["item", "label"])
    counted = rows.group_by("label").len().sort(["len", "label"], descending=[True, False])
    names = counted["label"].head(most).sort()
    column = codes(rows["label"], names)
    matrix = np.zeros((len(labels), len(names)), dtype=bool)
    matrix[rows["item"].to_numpy()[column >= 0], column[column >= 0]] = True
    return Tags(matrix=matrix, names=tuple(names)), len(counted) - len(names)
