"""Store recommendation (the article, Applications 2): stores ranked for a person by the items they hold."""

from __future__ import annotations

import numpy as np

from mmfed.applications.item_sets import BEST, best_mean, standardised
from mmfed.data.schema import Categorical
from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.protocol import tie_keys
from mmfed.evaluation.ranking import top_k
from mmfed.types import FloatArray, IntArray


def store_scores(item_scores: FloatArray, codes: IntArray, stores: int, *, best: int = BEST) -> FloatArray:
    """[users, stores]: the mean of the person's ``best`` highest standardised item scores in the store.

    A store with fewer items is judged by those it has; one without any that can be offered gets -inf. Many items give a
    store more chances: of stores that differ in size alone the larger one comes first.

    Args:
        item_scores: [users, items]; -inf for items that cannot be offered.
        codes: [items] store of every item, -1 where it has none.
        stores: how many there are.

    Raises:
        MmfedError: a score is NaN or +inf, or ``best`` is below 1.
    """
    scores = standardised(item_scores)
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(stores + 1))
    found = [best_mean(scores[:, order[starts[one] : starts[one + 1]]], best) for one in range(stores)]
    return np.stack(found, axis=1) if found else np.zeros((len(scores), 0))


def recommend_stores(
    item_scores: FloatArray, store: Categorical | None, *, k: int, seed: int, best: int = BEST
) -> tuple[IntArray, FloatArray]:
    """The k best stores for every person.

    Args:
        item_scores: [users, items]; -inf for items that cannot be offered.
        store: the catalogue's column of stores.
        seed: orders equal scores, by a hash of the store's name.

    Returns:
        [users, k] stores, best first, -1 where fewer can be listed; [users, stores] the scores.

    Raises:
        MmfedError: the shop has fewer than two stores, or as ``store_scores``.
    """
    known = several_stores(store)
    scores = store_scores(item_scores, known.codes, len(known.names), best=best)
    return top_k(scores, k, tie_keys(known.names, seed)), scores


def several_stores(store: Categorical | None) -> Categorical:
    """The column of stores, if there is anything to rank.

    Raises:
        MmfedError: the items name fewer than two stores.
    """
    if store is None or len(np.unique(store.codes[store.codes >= 0])) < 2:
        raise MmfedError(
            ExitCode.DATA,
            "the shop has a single store: there is nothing to rank.",
            "name the seller of every item in the column store of the items file (docs/data.md).",
        )
    return store
