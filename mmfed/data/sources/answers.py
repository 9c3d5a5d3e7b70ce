"""A column of a file of people as answers: which of the listed bands or categories each cell holds."""

from __future__ import annotations

import json

import numpy as np
import polars as pl

from mmfed.data.people import MISSING
from mmfed.person_attributes import PersonAttribute
from mmfed.types import IntArray


def answers(column: pl.Series, attribute: PersonAttribute) -> IntArray:
    """[rows] int64 which of the listed answers a string column holds; ``MISSING`` where it is empty or not listed."""
    if not attribute.bands:
        known = pl.Series(attribute.labels, dtype=pl.String)
        codes = column.cast(pl.Enum(known), strict=False).to_physical().cast(pl.Int64)
        return codes.fill_null(MISSING).to_numpy().copy()
    numbers = column.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
    bands = np.searchsorted(np.asarray(attribute.bands), numbers, side="right")
    return np.where(np.isfinite(numbers), bands, MISSING).astype(np.int64)


def proposal(column: pl.Series) -> str:
    """A list for a configuration, of what a string column holds: for simulated data, where nobody can be exposed.

    Numbers are cut at their fifths; of labels the most frequent ones are taken.
    """
    known = column.drop_nulls()
    numbers = known.cast(pl.Float64, strict=False)
    if len(known) and numbers.is_finite().fill_null(False).all() and known.n_unique() > _FEW:
        edges = np.unique(np.round(np.quantile(numbers.to_numpy(), [0.2, 0.4, 0.6, 0.8])))
        return f"[{', '.join(f'{edge:g}' for edge in edges)}]"
    labels = known.value_counts(sort=True).to_series().head(_SHOWN).sort()
    return json.dumps(labels.to_list(), ensure_ascii=False)


_FEW, _SHOWN = 10, 30
