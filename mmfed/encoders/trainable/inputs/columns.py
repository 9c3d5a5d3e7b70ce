"""Attribute columns of the catalogue as codes, tags and standardised numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from mmfed.data.schema import Catalogue, Categorical, Tags
from mmfed.encoders.trainable.attribute_embed import AttributeColumns
from mmfed.encoders.trainable.inputs.raw import RawInputs
from mmfed.types import FloatArray

Column = TypeVar("Column")


@dataclass(frozen=True)
class ColumnSizes:
    """What ``AttributeEmbedding`` is built for.

    Attributes:
        labels: number of labels of each categorical column, in order.
        tags: number of tags over all tag columns.
        numbers: number of numeric columns, price included.
    """

    labels: tuple[int, ...]
    tags: int
    numbers: int


def attribute_columns(catalogue: Catalogue) -> tuple[RawInputs[AttributeColumns], ColumnSizes]:
    """Price, category, store and further columns of the catalogue; an item is present when it has any of them.

    Prices enter as log(1 + price), numbers are standardised over the items that have them, and a column that no item
    has is left out. What counts as missing is the same as in ``encoders.attributes``, which makes one-hot columns.
    """
    labelled = [(codes, len(column.names)) for column in _labelled(catalogue) if ((codes := _codes(column)) >= 0).any()]
    tagged = [column for column in _tagged(catalogue) if column.matrix.any()]
    numbers = [column for column in map(_standardised, _numeric(catalogue)) if column is not None]
    codes = _side_by_side([column for column, _ in labelled], catalogue.size, np.int64)
    tags = _side_by_side([matrix for column in tagged for matrix in column.matrix.T], catalogue.size, np.bool_)
    values = _side_by_side(numbers, catalogue.size, np.float32)
    known = np.isfinite(values)
    present = np.asarray((codes >= 0).any(1) | tags.any(1) | known.any(1))
    columns = AttributeColumns(
        torch.from_numpy(codes),
        torch.from_numpy(tags),
        torch.from_numpy(np.where(known, values, np.float32(0.0))),
        torch.from_numpy(known),
    )
    sizes = ColumnSizes(tuple(count for _, count in labelled), tags.shape[1], values.shape[1])
    return RawInputs(columns, present, {}), sizes


def _labelled(catalogue: Catalogue) -> Iterator[Categorical]:
    for column in (catalogue.category, catalogue.store, *_in_order(catalogue.categorical)):
        if isinstance(column, Categorical):
            yield column


def _tagged(catalogue: Catalogue) -> Iterator[Tags]:
    for column in (catalogue.category, *_in_order(catalogue.tags)):
        if isinstance(column, Tags):
            yield column


def _numeric(catalogue: Catalogue) -> Iterator[FloatArray]:
    prices = np.asarray(catalogue.prices, dtype=np.float64)
    yield np.log1p(np.where(prices >= 0, prices, np.nan))
    for column in _in_order(catalogue.numeric):
        yield np.asarray(column, dtype=np.float64)


def _in_order(columns: Mapping[str, Column]) -> list[Column]:
    return [columns[name] for name in sorted(columns)]


def _codes(column: Categorical) -> np.ndarray:
    codes = np.asarray(column.codes, dtype=np.int64)
    return np.where((codes >= 0) & (codes < len(column.names)), codes, -1)


def _standardised(column: FloatArray) -> FloatArray | None:
    """Mean 0 and variance 1 over the finite values (0 where they are all equal), NaN elsewhere; None without any."""
    known = np.isfinite(column)
    if not known.any():
        return None
    values = column[known] / (np.abs(column[known]).max() or 1.0)  # squares of the largest numbers would overflow
    deviation = values.std()
    standard = np.full(len(column), np.nan)
    standard[known] = (values - values.mean()) / deviation if deviation > 1e-12 else 0.0
    return standard


def _side_by_side(columns: Sequence[np.ndarray], rows: int, dtype: type[np.generic]) -> np.ndarray:
    return np.stack(columns, axis=1).astype(dtype) if columns else np.zeros((rows, 0), dtype=dtype)
