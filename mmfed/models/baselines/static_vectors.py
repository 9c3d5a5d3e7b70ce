"""Baselines that learn one vector per user: history after training changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfed.data.schema import Interactions
from mmfed.errors import ExitCode, MmfedError
from mmfed.models.baselines.base import Baseline, check_catalogue, not_fitted
from mmfed.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class StaticVectors:
    """A fitted model as tables.

    Attributes:
        users: [users, d].
        items: [items, d].
        bias: [items]
        known: [users] whether the user has any training interaction; an untrained vector is noise.
        newcomer: [items] scores for a user who has none.
    """

    users: FloatArray
    items: FloatArray
    bias: FloatArray
    known: BoolArray
    newcomer: FloatArray


class StaticVectorBaseline(Baseline):
    """score(u, j) = user vector · item vector + bias of the item."""

    _fitted: StaticVectors | None = None

    def score(self, history: Interactions, users: IntArray) -> FloatArray:
        if self._fitted is None:
            raise not_fitted(self)
        fitted = self._fitted
        check_catalogue(self, len(fitted.items), history)
        if history.user_count != len(fitted.users):
            raise MmfedError(
                ExitCode.FAULT,
                f"baseline '{self.name}' knows {len(fitted.users)} users, the history has {history.user_count}.",
                "score the users it was fitted on; a static user vector serves nobody else.",
            )
        # In float64, so that a user's scores don't depend on who is scored in the same block.
        scores = fitted.users[users].astype(np.float64) @ fitted.items.T.astype(np.float64) + fitted.bias
        return np.where(fitted.known[users][:, None], scores, fitted.newcomer)
