"""When to stop training: quality on interactions held out of the training set, never on validation or test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmfed.data.schema import Interactions
from mmfed.evaluation.protocol import flatten
from mmfed.types import FloatArray, IntArray

MOST_USERS = 1000  # users who give an interaction
LIST_LENGTH = 50
CELLS_AT_ONCE = 2**22  # scores held at once


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The last training interaction of some users, and the training set without it.

    Attributes:
        rest: same users and catalogue.
        users, items: [held] int64.
    """

    rest: Interactions
    users: IntArray
    items: IntArray

    def ndcg(self, score: Callable[[IntArray], FloatArray]) -> float:
        """Mean 1 / log2(1 + rank) of the held items within the first ``LIST_LENGTH``, known items left out; ties count
        against the held item.

        Args:
            score: maps user indices to scores [users, items].
        """
        gain = 0.0
        height = max(1, CELLS_AT_ONCE // max(1, self.rest.item_count))
        for start in range(0, len(self.users), height):
            users, items = self.users[start : start + height], self.items[start : start + height]
            scores = np.array(score(users))
            held = scores[np.arange(len(users)), items]
            scores[flatten(self.rest, users)] = -np.inf
            scores[np.arange(len(users)), items] = -np.inf
            rank = 1 + (scores >= held[:, None]).sum(axis=1)
            gain += float((1.0 / np.log2(1 + rank))[rank <= LIST_LENGTH].sum())
        return gain / max(1, len(self.users))


def hold_out(train: Interactions, generator: np.random.Generator) -> HeldOut:
    """Take the last interaction of up to ``MOST_USERS`` random users with two or more (none where nobody has)."""
    able = np.flatnonzero(train.lengths >= 2)
    users = np.sort(generator.permutation(able)[:MOST_USERS])
    rows = np.asarray(train.indptr)[users + 1] - 1
    keep = np.ones(len(train), dtype=bool)
    keep[rows] = False
    return HeldOut(train.keep_rows(keep), users, np.asarray(train.items)[rows].astype(np.int64))
