"""Coverage, diversity, novelty and popularity of lists; each function states its exact definition.

A list is a row of [users, k] item indices, best first; -1 fills a list that is shorter than k.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmfed.evaluation.accuracy import TargetRanks, rank_discounts, sum_by_user
from mmfed.evaluation.intervals import Estimate, jackknife_estimate
from mmfed.types import FloatArray, IntArray

DIVERSITY_CELLS = 2**22  # numbers gathered at once while lists are compared


def exposure(lists: IntArray, item_count: int) -> IntArray:
    """[items] in how many lists each item stands."""
    return np.bincount(lists[lists >= 0], minlength=item_count)


def catalogue_coverage(lists: IntArray, item_count: int) -> Estimate:
    """Distinct listed items over the size of the catalogue."""
    shown = exposure(lists, item_count)
    only_here = np.where(lists >= 0, shown[lists] == 1, False).sum(axis=1)
    return jackknife_estimate(float((shown > 0).sum() / item_count), only_here / item_count)


def gini(lists: IntArray, item_count: int) -> Estimate:
    """Gini coefficient of the exposure of the whole catalogue, items never shown included: 0 equal, near 1 one item.

    Sum over items in ascending exposure of (2 i - n - 1) x_i, over n times the total exposure.
    """
    shown = exposure(lists, item_count).astype(np.float64)
    total = shown.sum()
    if total == 0:
        return Estimate(np.nan, reason="no item was listed")
    unique, inverse, counts = np.unique(shown, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mid_rank = (2 * last - counts + 1) / 2.0  # of equal exposures
    value = float(2 * (mid_rank * counts * unique).sum() / (item_count * total) - (item_count + 1) / item_count)
    slope = 2 * mid_rank[inverse] / (item_count * total) - (value + (item_count + 1) / item_count) / total
    influence = np.where(lists >= 0, slope[lists], 0.0).sum(axis=1)
    return jackknife_estimate(value, influence)


def full_list(lists: IntArray) -> FloatArray:
    """[users] 1 where the list holds k items (its mean is user coverage)."""
    return np.asarray((lists >= 0).all(axis=1), dtype=np.float64)


def intra_list_diversity(lists: IntArray, vectors: np.ndarray, ks: Sequence[int]) -> dict[int, FloatArray]:
    """Mean cosine distance (1 - cosine) over all pairs of a list, in the space of ``vectors``.

    Args:
        vectors: [items, d] content, or bool labels (two items of one label each: 0 if it is the same, else 1). An
            all-zero row means nothing is known of the item; its pairs are left out.

    Returns:
        per k [users] in [0, 2], in [0, 1] where no component is negative; NaN where no pair is left.
    """
    found = {k: np.full(len(lists), np.nan) for k in ks}
    vectors = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    directions = vectors / np.where(norms > 0, norms, 1.0)[:, None]
    at_once = max(1, DIVERSITY_CELLS // max(1, lists.shape[1] * vectors.shape[1]))
    for start in range(0, len(lists), at_once):
        part = lists[start : start + at_once]
        usable = (part >= 0) & (norms[part] > 0)
        # The squared length of the sum of m unit vectors is m plus twice the sum of their pairwise cosines.
        sums = np.cumsum(np.where(usable[:, :, None], directions[part], 0.0), axis=1)
        size = np.cumsum(usable, axis=1)
        for k in ks:
            last = min(k, part.shape[1]) - 1
            m = size[:, last].astype(np.float64)
            ordered_pairs = m * (m - 1)
            cosines = (sums[:, last] ** 2).sum(axis=1) - m
            distance = np.clip(1.0 - cosines / np.maximum(ordered_pairs, 1.0), 0.0, 2.0)
            found[k][start : start + at_once] = np.where(ordered_pairs > 0, distance, np.nan)
    return found


def list_mean(lists: IntArray, item_values: FloatArray | IntArray) -> FloatArray:
    """[users] mean of an item's value over the list; NaN for an empty list."""
    there = lists >= 0
    sizes = there.sum(axis=1)
    totals = np.where(there, np.asarray(item_values, dtype=np.float64)[lists], 0.0).sum(axis=1)
    return np.divide(totals, sizes, out=np.full(len(lists), np.nan), where=sizes > 0)


def surprise(train_users: IntArray, user_total: int) -> FloatArray:
    """[items] -log2(training users of the item / training users), the summand of novelty (MIUF; Zhou et al. 2010).

    An item without training users would be infinitely novel; it counts as if it had one.
    """
    share = np.clip(np.maximum(train_users, 1) / max(user_total, 1), 0.0, 1.0)
    return np.asarray(np.log2(1.0 / share))


def expected_popularity_complement(found: TargetRanks, popularity: FloatArray, k: int) -> FloatArray:
    """[users] EPC (Vargas and Castells 2011): discounted relevance x (1 - popularity), over the sum of discounts.

    Args:
        popularity: [items] share of training users who had the item, in [0, 1].
    """
    hit = found.ranks <= k
    gain = np.zeros(len(found.ranks))
    gain[hit] = (1.0 - popularity[found.items[hit]]) / np.log2(found.ranks[hit] + 1.0)
    return sum_by_user(found.rows, gain, len(found.relevant)) / rank_discounts(k).sum()


def serendipity(found: TargetRanks, popularity_rank: IntArray, k: int) -> FloatArray:
    """[users] share of the list of k that is relevant and that popularity would not have listed (Ge et al. 2010).

    Args:
        popularity_rank: [pairs of ``found``] 1-based rank by training count among the items the user does not know;
            equal counts share the best rank, so ties count as predicted.
    """
    surprising = (found.ranks <= k) & (popularity_rank > k)
    return sum_by_user(found.rows, surprising, len(found.relevant)) / k


def popularity_ranks(
    rows: IntArray, items: IntArray, known: tuple[IntArray, IntArray], train_counts: IntArray
) -> IntArray:
    """[pairs] 1 + number of items with more training interactions that the row's user does not know.

    Args:
        rows, items: [pairs] whose rank is asked for.
        known: (rows, items) of the distinct items removed from each user's list.
    """
    ascending = np.sort(train_counts)
    above = len(ascending) - np.searchsorted(ascending, train_counts[items], side="right")
    # Count each user's known items above the same count by one search in (row, count) order.
    known_rows, known_items = known
    stride = int(train_counts.max(initial=0)) + 1
    keys = np.sort(known_rows * stride + train_counts[known_items])
    first_above = np.searchsorted(keys, rows * stride + train_counts[items], side="right")
    row_end = np.searchsorted(keys, (rows + 1) * stride, side="left")
    return above - (row_end - first_above) + 1
