"""How good a set of items is for a person, and what chance would give a set of that size."""

from __future__ import annotations

import numpy as np

from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.protocol import index_tie_keys
from mmfed.types import FloatArray, IntArray

BEST = 3


def standardised(item_scores: FloatArray) -> FloatArray:
    """[users, items] float64: every person's scores with mean 0 and deviation 1; a constant row becomes 0.

    Args:
        item_scores: [users, items]; -inf for items that cannot be offered, which stay -inf and count for nothing.

    Raises:
        MmfedError: a score is NaN or +inf.
    """
    scores = np.asarray(item_scores, dtype=np.float64)
    if np.isnan(scores).any() or np.isposinf(scores).any():
        row, item = np.argwhere(np.isnan(scores) | np.isposinf(scores))[0]
        raise MmfedError(
            ExitCode.CONFIG,
            f"score in row {int(row)}, item {int(item)} is {scores[row, item]}.",
            "the model diverged: lower the learning rate; use -inf for items that cannot be offered.",
        )
    offered = np.isfinite(scores)
    count = np.maximum(offered.sum(1, keepdims=True), 1)
    centred = np.where(offered, scores, 0.0)
    centred = np.where(offered, centred - centred.sum(1, keepdims=True) / count, 0.0)
    deviation = np.sqrt((centred**2).sum(1, keepdims=True) / count)
    return np.where(offered, np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0), -np.inf)


def best_items(scores: FloatArray, items: IntArray, *, seed: int, best: int = BEST) -> IntArray:
    """At most ``best`` of ``items`` with the highest scores, best first; those at -inf never.

    Args:
        scores: [all items] of one person.
        seed: orders equal scores.
    """
    check_best(best)
    items = np.asarray(items, dtype=np.int64)
    order = items[np.lexsort((index_tie_keys(len(scores), seed)[items], -scores[items]))][:best]
    return order[np.isfinite(scores[order])]


def best_mean(scores: FloatArray, best: int = BEST) -> FloatArray:
    """[users] mean of each row's ``best`` highest scores; of fewer, what there is; -inf where there is none.

    Args:
        scores: [users, items of the set].
    """
    check_best(best)
    users, size = scores.shape
    if size == 0:
        return np.full(users, -np.inf)
    kept = min(best, size)
    top = np.partition(scores, size - kept, axis=1)[:, size - kept :]
    there = np.isfinite(top)
    count = there.sum(1)
    total = np.where(there, top, 0.0).sum(1)
    return np.divide(total, count, out=np.full(users, -np.inf), where=count > 0)


def chance_weights(items: int, size: int, best: int = BEST) -> FloatArray:
    """[items] summing to 1: the expected ``best_mean`` of a random set of ``size`` items, as weights of the scores.

    The score at place j of n (best first) counts when its item is drawn and fewer than ``best`` better ones are, which
    has probability proportional to sum over i < best of C(j, i) C(n - 1 - j, size - 1 - i): exact, nothing is sampled.

    Args:
        items: how many there are to draw from.
        size: 1 to ``items``; drawn without replacement.
    """
    check_best(best)
    if not 1 <= size <= items:
        raise MmfedError(ExitCode.FAULT, f"a set of {size} of {items} items.", f"ask for 1 to {items} items.")
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, items + 1)))])

    def log_choose(n: IntArray, k: int) -> FloatArray:
        possible = n >= k
        held = np.where(possible, n, k)
        return np.where(possible, log_factorial[held] - log_factorial[k] - log_factorial[held - k], -np.inf)

    place = np.arange(items)
    ways = [log_choose(place, i) + log_choose(items - 1 - place, size - 1 - i) for i in range(min(best, size))]
    weights = np.exp(np.array(ways) - np.max(ways)).sum(0)
    return weights / weights.sum()


def check_best(best: int) -> None:
    """Raises:
    MmfedError: ``best`` is below 1.
    """
    if best < 1:
        raise MmfedError(ExitCode.CONFIG, f"best = {best}: no item would count.", "take 1 or more.")
