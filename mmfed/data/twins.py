"""Items with nearly the same audience: merged variants of one product, which make figures look better than they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from mmfed.data.schema import Interactions
from mmfed.types import FloatArray, IntArray

_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Twins:
    """Item pairs by falling overlap.

    Attributes:
        pairs: [pairs, 2] item indices.
        jaccard: [pairs] users of both / users of either.
        users: how many users were looked at; fewer than the shop has where the work was capped.
    """

    pairs: IntArray
    jaccard: FloatArray
    users: int


def item_twins(
    interactions: Interactions, *, threshold: float = 0.3, minimum_users: int = 5, most_pairs: int = 100_000_000
) -> Twins:
    """Pairs of items whose sets of users overlap by more than ``threshold`` (Jaccard).

    Args:
        minimum_users: items with fewer users are left out; two items that share their only customer prove nothing.
        most_pairs: bound on the sum over users of (history length)², which is the work; beyond it every n-th user is
            looked at, which leaves the expected overlap as it is.
    """
    work = np.cumsum(np.asarray(interactions.lengths, dtype=np.float64) ** 2)
    stride = max(1, int(np.ceil(work[-1] / most_pairs))) if len(work) else 1
    chosen = np.arange(0, interactions.user_count, stride)
    seen = interactions.keep_users(chosen) if stride > 1 else interactions
    matrix = sparse.csr_matrix(
        (np.ones(len(seen), dtype=np.int32), (seen.user_of_row(), seen.items)), shape=(seen.user_count, seen.item_count)
    )
    matrix.data[:] = 1  # duplicate (user, item) rows were summed
    audience = np.asarray(matrix.sum(axis=0)).ravel()
    items = np.flatnonzero(audience >= minimum_users)
    columns = matrix.tocsc()[:, items]
    sizes = audience[items]
    found: list[tuple[IntArray, IntArray, FloatArray]] = []
    for start in range(0, len(items), _BLOCK):
        both = (columns[:, start : start + _BLOCK].T @ columns).tocoo()
        left, right = both.row + start, both.col
        overlap = both.data / (sizes[left] + sizes[right] - both.data)
        keep = (left < right) & (overlap > threshold)
        found.append((items[left[keep]], items[right[keep]], overlap[keep]))
    first, second, jaccard = (np.concatenate([part[i] for part in found] or [np.zeros(0)]) for i in range(3))
    order = np.lexsort((second, first, -jaccard))
    pairs = np.stack([first, second], axis=1).astype(np.int64)[order]
    return Twins(pairs=pairs, jaccard=jaccard[order].astype(np.float64), users=seen.user_count)
