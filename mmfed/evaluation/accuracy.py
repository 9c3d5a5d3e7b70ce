"""Accuracy metrics from the ranks of the relevant items; definitions and denominators of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmfed.types import FloatArray, IntArray

UNRANKED = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class TargetRanks:
    """Where each relevant item of a block of users stands.

    Attributes:
        rows: [pairs] position of the user in the block, ascending.
        items: [pairs] the relevant item; a user's come best rank first.
        ranks: [pairs] 1-based rank, ``UNRANKED`` where the scorer cannot recommend the item.
        order: [pairs] 1-based place among the user's own relevant items.
        relevant: [users] relevant items of each user of the block.
    """

    rows: IntArray
    items: IntArray
    ranks: IntArray
    order: IntArray
    relevant: IntArray


def target_ranks(
    masked: FloatArray, rows: IntArray, items: IntArray, target_scores: FloatArray, tie_key: FloatArray
) -> TargetRanks:
    """Pessimistic ranks: every irrelevant item with the same score stands before the relevant one.

    Args:
        masked: [users, items] scores with -inf on whatever is no competitor: known items and all relevant items.
        rows, items: [pairs] distinct relevant items, ordered by row.
        target_scores: [pairs] their scores.
        tie_key: [items] orders relevant items of equal score among themselves.
    """
    users = len(masked)
    arrangement = np.lexsort((tie_key[items], -target_scores, rows))
    rows, items, target_scores = rows[arrangement], items[arrangement], target_scores[arrangement]
    relevant = np.bincount(rows, minlength=users)
    order = np.arange(len(rows)) - (np.cumsum(relevant) - relevant)[rows] + 1
    ranks = _not_below(masked, rows, target_scores) + order
    ranks[np.isneginf(target_scores)] = UNRANKED
    return TargetRanks(rows, items, ranks, order, relevant)


def _not_below(masked: FloatArray, rows: IntArray, thresholds: FloatArray) -> IntArray:
    """[pairs] how many cells of each pair's row are at or above its threshold."""
    if len(rows) == len(masked) and np.array_equal(rows, np.arange(len(masked))):
        return np.count_nonzero(masked >= thresholds[:, None], axis=1).astype(np.int64)
    counts = np.empty(len(rows), dtype=np.int64)
    at_once = max(1, 2**22 // max(1, masked.shape[1]))
    for start in range(0, len(rows), at_once):
        part = slice(start, start + at_once)
        counts[part] = np.count_nonzero(masked[rows[part]] >= thresholds[part, None], axis=1)
    return counts


def accuracy_metrics(
    found: TargetRanks,
    ks: Sequence[int],
    names: Sequence[str] = ("recall", "precision", "ndcg", "map", "hit_rate", "mrr"),
) -> dict[str, FloatArray]:
    """Per-user accuracy at every k: {"recall@10": [users], ...}; users need at least one relevant item.

    recall: hits / relevant. precision: hits / k, also for shorter lists. ndcg: binary gain, ideal over
    min(relevant, k). map: average precision over min(relevant, k). hit_rate: any hit. mrr: 1 / rank of the first hit,
    0 without one.
    """
    users = len(found.relevant)
    ranks = np.minimum(found.ranks, 2**52).astype(np.float64)
    discounts = 1.0 / np.log2(ranks + 1.0)
    values: dict[str, FloatArray] = {}
    for k in ks:
        hit = (found.ranks <= k).astype(np.float64)
        hits = sum_by_user(found.rows, hit, users)
        ideal_length = np.minimum(found.relevant, k)
        if "recall" in names:
            values[f"recall@{k}"] = hits / found.relevant
        if "precision" in names:
            values[f"precision@{k}"] = hits / k
        if "ndcg" in names:
            ideal = np.concatenate([[0.0], np.cumsum(rank_discounts(k))])[ideal_length]
            values[f"ndcg@{k}"] = sum_by_user(found.rows, hit * discounts, users) / ideal
        if "map" in names:
            precision_here = hit * found.order / ranks
            values[f"map@{k}"] = sum_by_user(found.rows, precision_here, users) / ideal_length
        if "hit_rate" in names:
            values[f"hit_rate@{k}"] = (hits > 0).astype(np.float64)
        if "mrr" in names:
            first = hit * (found.order == 1) / ranks
            values[f"mrr@{k}"] = sum_by_user(found.rows, first, users)
    return values


def sum_by_user(rows: IntArray, values: np.ndarray, users: int) -> FloatArray:
    """[users] sums of ``values`` [pairs], whose users are ``rows`` [pairs]."""
    return np.asarray(np.bincount(rows, np.asarray(values, dtype=np.float64), minlength=users), dtype=np.float64)


def rank_discounts(k: int) -> FloatArray:
    """[k] 1 / log2(rank + 1) for ranks 1 to k."""
    return 1.0 / np.log2(np.arange(2, k + 2))
