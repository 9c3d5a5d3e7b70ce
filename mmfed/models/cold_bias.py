"""Biases of items that training never met, predicted from their content."""

from __future__ import annotations

import numpy as np

from mmfed.types import BoolArray, FloatArray

RIDGES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)


def predicted_from_content(values: FloatArray, content: FloatArray | None, cold: BoolArray) -> FloatArray:
    """Ridge regression of a value per item on content, learned from warm items; for cold items only.

    A cold item's bias parameter has only ever been pushed down, as a negative. What warm items like it have learned
    says more. It reads public content and released parameters alone: post-processing, no privacy cost.

    Args:
        values: [items] e.g. biases; those of cold items are not read.
        content: [items, d]; None where items have none: a cold item then gets the warm mean.
        cold: [items] bool.

    Returns:
        [items] float64, ``values`` with the predictions in the places of cold items. The ridge is the one of ``RIDGES``
        with the least leave-one-out error, the mean alone among the choices.
    """
    found = np.array(values, dtype=np.float64)
    warm = ~cold
    if not warm.any() or not cold.any():
        return found
    mean = float(found[warm].mean())
    found[cold] = mean
    count = int(warm.sum())
    if content is None or content.shape[1] == 0 or count < 3:
        return found
    centred = content.astype(np.float64) - content[warm].mean(0, dtype=np.float64)
    target = values[warm].astype(np.float64) - mean
    left, spread, right = np.linalg.svd(centred[warm], full_matrices=False)
    power = spread**2
    coefficients = left.T @ target
    least, weights = float(np.mean((target / (1 - 1 / count)) ** 2)), None
    for ridge in RIDGES:
        kept = power / (power + ridge)
        leverage = (left**2) @ kept + 1 / count
        error = float(np.mean(((target - left @ (kept * coefficients)) / np.maximum(1 - leverage, 1e-9)) ** 2))
        if error < least:
            least, weights = error, right.T @ (spread / (power + ridge) * coefficients)
    if weights is not None:
        found[cold] += centred[cold] @ weights
    return found
