"""Attribute columns of the catalogue as one dense matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mmfed.data.schema import Catalogue, Categorical, Features, Tags
from mmfed.types import BoolArray, FloatArray

MAXIMUM_LABELS = 64  # labels of one column with a direction of their own; the rest share "other"


@dataclass(frozen=True, eq=False)
class _Block:
    """Columns made from one attribute: values [items, columns], presence [items]."""

    names: tuple[str, ...]
    values: np.ndarray
    present: BoolArray


def attribute_features(catalogue: Catalogue) -> Features:
    """Price, numeric columns, category, store, categorical and tag columns side by side, [items, columns] float32.

    Numbers are standardised over the items that have them (price after log(1 + price)); a missing number is 0, the
    mean, and a column that says "missing" is added where any is. Labels are one-hot, tags multi-hot, the most frequent
    64 of a column apart and the rest together. An item is present when it has any attribute.
    """
    blocks = list(_blocks(catalogue))
    if not blocks:
        return Features(np.zeros((catalogue.size, 0), dtype=np.float32), np.zeros(catalogue.size, dtype=bool))
    values = np.concatenate([block.values for block in blocks], axis=1)
    present = np.logical_or.reduce([block.present for block in blocks])
    values[~present] = 0.0
    return Features(values, present)


def attribute_names(catalogue: Catalogue) -> tuple[str, ...]:
    """Names of the columns of ``attribute_features``, such as ``price``, ``price missing``, ``category=Dress``."""
    return tuple(name for block in _blocks(catalogue) for name in block.names)


def _blocks(catalogue: Catalogue) -> Iterator[_Block]:
    """The columns in a fixed order; attributes that no item has yield nothing."""
    prices = np.asarray(catalogue.prices, dtype=np.float64)
    yield from _number("price", np.log1p(np.where(prices >= 0, prices, np.nan)))
    for name in sorted(catalogue.numeric):
        yield from _number(name, np.asarray(catalogue.numeric[name], dtype=np.float64))
    if isinstance(catalogue.category, Tags):
        yield from _tags("category", catalogue.category)
    elif catalogue.category is not None:
        yield from _labels("category", catalogue.category)
    if catalogue.store is not None:
        yield from _labels("store", catalogue.store)
    for name in sorted(catalogue.categorical):
        yield from _labels(name, catalogue.categorical[name])
    for name in sorted(catalogue.tags):
        yield from _tags(name, catalogue.tags[name])


def _number(name: str, column: FloatArray) -> Iterator[_Block]:
    present = np.isfinite(column)
    if not present.any():
        return
    known = column[present]
    deviation = known.std()
    standard = np.zeros((len(column), 1), dtype=np.float32)
    if deviation > 1e-12 * max(1.0, float(np.abs(known).max())):
        standard[present, 0] = (known - known.mean()) / deviation
    if present.all():
        yield _Block((name,), standard, present)
    else:
        missing = (~present).astype(np.float32)[:, None]
        yield _Block((name, f"{name} missing"), np.concatenate([standard, missing], axis=1), present)


def _labels(name: str, column: Categorical) -> Iterator[_Block]:
    present = (column.codes >= 0) & (column.codes < len(column.names))
    if not present.any():
        return
    codes = column.codes[present].astype(np.int64)
    counts = np.bincount(codes, minlength=len(column.names))
    kept, rest = _most_frequent(counts)
    position = np.full(len(column.names), len(kept), dtype=np.int64)
    position[kept] = np.arange(len(kept))
    values = np.zeros((len(column.codes), len(kept) + bool(rest)), dtype=np.float32)
    values[np.flatnonzero(present), position[codes]] = 1.0
    yield _Block(_column_names(name, column.names, kept, rest), values, present)


def _tags(name: str, column: Tags) -> Iterator[_Block]:
    present = np.asarray(column.matrix.any(axis=1))
    if not present.any():
        return
    kept, rest = _most_frequent(column.matrix.sum(axis=0))
    parts = [column.matrix[:, kept]]
    if rest:
        parts.append(np.asarray(np.delete(column.matrix, kept, axis=1).any(axis=1, keepdims=True)))
    yield _Block(
        _column_names(name, column.names, kept, rest), np.concatenate(parts, axis=1).astype(np.float32), present
    )


def _most_frequent(counts: np.ndarray) -> tuple[np.ndarray, bool]:
    """Labels that occur, in their own order, and whether others that occur were left for "other"."""
    order = np.argsort(-counts, kind="stable")
    used = order[counts[order] > 0]
    return np.sort(used[:MAXIMUM_LABELS]), len(used) > MAXIMUM_LABELS


def _column_names(name: str, labels: tuple[str, ...], kept: np.ndarray, rest: bool) -> tuple[str, ...]:
    return (*(f"{name}={labels[int(label)]}" for label in kept), *((f"{name}: other",) if rest else ()))
