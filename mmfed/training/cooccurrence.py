"""What a device says once about which items go together: its banded item co-occurrence, of norm 1 by construction."""

from __future__ import annotations

import numpy as np

from mmfed.training.batch import Histories
from mmfed.types import FloatArray, IntArray


def banded_cooccurrence(
    histories: Histories, item_count: int, *, decay: float, covered: IntArray | None = None
) -> FloatArray:
    """Σ_u K_u / ‖K_u‖_F with K_u[i, j] = decay^|t_i − t_j| over the user's own items, t the place in the sequence.

    A repeated item stands at its latest place. Every user adds a symmetric matrix of Frobenius norm exactly 1 (0 for an
    empty history), so the sum has user-level sensitivity 1 with no clipping to choose.

    Args:
        histories: one sequence per user.
        decay: in (0, 1]; 1 counts all pairs alike.
        covered: [m] ascending; only these items take part, at the places they have in the whole sequence, and the
            norm is 1 over them. None: all items.

    Returns:
        [items, items] (with ``covered`` [m, m]) float64, symmetric.
    """
    place_of = np.arange(item_count)
    if covered is not None:
        place_of = np.full(item_count, -1)
        place_of[covered] = np.arange(len(covered))
    size = item_count if covered is None else len(covered)
    total = np.zeros((size, size))
    for start, end in zip(histories.indptr[:-1], histories.indptr[1:], strict=True):
        items, places = np.unique(histories.items[start:end][::-1], return_index=True)
        items = place_of[items]
        items, places = items[items >= 0], places[items >= 0]
        if not len(items):
            continue
        kernel = np.power(float(decay), np.abs(places[:, None] - places[None, :]))
        total[np.ix_(items, items)] += kernel / np.linalg.norm(kernel)
    return total


def popularity_counts(histories: Histories, item_count: int) -> FloatArray:
    """[items] Σ_u 1/√T_u over the T_u distinct items of each user: everybody adds a vector of norm 1 (0 without items).

    The user-level sensitivity is 1 under add/remove, as that of ``banded_cooccurrence``.
    """
    counts = np.zeros(item_count)
    for start, end in zip(histories.indptr[:-1], histories.indptr[1:], strict=True):
        items = np.unique(histories.items[start:end])
        if len(items):
            counts[items] += 1.0 / np.sqrt(len(items))
    return counts


def packed(matrix: FloatArray) -> FloatArray:
    """[items (items + 1) / 2] the diagonal and the upper triangle, √2 times the latter: the same norm as the matrix."""
    rows, columns = np.triu_indices(len(matrix))
    return matrix[rows, columns] * np.where(rows == columns, 1.0, np.sqrt(2.0))


def unpacked(vector: FloatArray, item_count: int) -> FloatArray:
    """Inverse of ``packed``."""
    rows, columns = np.triu_indices(item_count)
    matrix = np.zeros((item_count, item_count))
    matrix[rows, columns] = vector / np.where(rows == columns, 1.0, np.sqrt(2.0))
    matrix[columns, rows] = matrix[rows, columns]
    return matrix


def packed_size(item_count: int) -> int:
    """Length of the packed vector."""
    return item_count * (item_count + 1) // 2
