"""How alike two items of the public catalogue are; a person's own history meets it on the device, at no cost in ε."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmfed.data.labels import category_matrix
from mmfed.data.schema import Catalogue, Features
from mmfed.types import FloatArray

TEXT, OTHER_MODALITIES, CATEGORY, NUMBER = 1.0, 0.3, 0.5, 0.5  # weights of the parts
NEAR = 0.2  # standard deviations of a number at which likeness has fallen to 1/e


def content_kernel(features: Mapping[str, Features], catalogue: Catalogue) -> FloatArray:
    """[items, items] cosines of text and of other modalities, of the category's labels, and closeness in numbers.

    Weights as in the study's recipe; the weight of numbers is shared by all columns. What an item lacks adds nothing.
    Attributes count through the columns they were made of, not through their encoding.
    """
    total = np.zeros((catalogue.size, catalogue.size))
    for name in sorted(set(features) - {"attributes"}):
        one = features[name]
        values = np.where(one.present[:, None], one.values, 0.0)
        total += (TEXT if name == "text" else OTHER_MODALITIES) * _cosines(values)
    labels = category_matrix(catalogue)
    if labels is not None:
        total += CATEGORY * _cosines(labels)
    with np.errstate(invalid="ignore", divide="ignore"):
        prices = np.log(np.where(catalogue.prices > 0, catalogue.prices, np.nan))
    numbers = [close for column in (*catalogue.numeric.values(), prices) if (close := _closeness(column)).any()]
    for close in numbers:
        total += NUMBER / len(numbers) * close
    return total


def _cosines(vectors: np.ndarray) -> FloatArray:
    values = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    unit = values / np.where(lengths > 0, lengths, 1.0)
    return unit @ unit.T


def _closeness(column: FloatArray) -> FloatArray:
    """exp(−|difference| / (NEAR · deviation)); 0 where either number is missing, or all are alike."""
    values = np.asarray(column, dtype=np.float64)
    known = np.isfinite(values)
    deviation = float(values[known].std()) if known.any() else 0.0
    if deviation == 0.0:
        return np.zeros((len(values), len(values)))
    filled = np.where(known, values, 0.0)
    close = np.exp(-np.abs(filled[:, None] - filled[None, :]) / (NEAR * deviation))
    return close * (known[:, None] & known[None, :])
