"""Rating predictors that a model has to beat; no learning, no content."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from mmfed.data.schema import Interactions
from mmfed.types import FloatArray, IntArray

DAMPING = 5.0  # ratings of average value that every item and every user is given beforehand


class GlobalMean:
    """Everybody gives everything the mean of all training ratings."""

    name: ClassVar[str] = "global mean"

    def fit(self, train: Interactions) -> Self:
        """Learn from the rated interactions of ``train``."""
        rated = np.isfinite(train.values)
        self._mean = float(train.values[rated].mean()) if rated.any() else 0.0
        return self

    def predict(self, history: Interactions, users: IntArray, items: IntArray) -> FloatArray:
        """[pairs] predictions for users [pairs] and items [pairs]."""
        del history, items
        return np.full(len(users), self._mean)


class DampedMeans:
    """mean + b_item + b_user, each a damped mean of what is left (Funk 2006; Koren et al. 2009, section 2.1).

    Item means come from training, a user's from the whole history known at prediction time.
    """

    name: ClassVar[str] = "item and user means"

    def fit(self, train: Interactions) -> Self:
        """Learn from the rated interactions of ``train``."""
        rated = np.isfinite(train.values)
        self._mean = float(train.values[rated].mean()) if rated.any() else 0.0
        self._item = _damped(train.items[rated], train.values[rated] - self._mean, train.item_count)
        return self

    def predict(self, history: Interactions, users: IntArray, items: IntArray) -> FloatArray:
        """[pairs] predictions for users [pairs] and items [pairs]."""
        rated = np.isfinite(history.values)
        left = history.values[rated] - self._mean - self._item[history.items[rated]]
        user = _damped(history.user_of_row()[rated], left, history.user_count)
        return self._mean + self._item[items] + user[users]


def _damped(groups: IntArray, values: FloatArray, size: int) -> FloatArray:
    """[size] sum of a group's values over its count plus the damping."""
    total = np.bincount(groups, weights=values, minlength=size)
    return total / (np.bincount(groups, minlength=size) + DAMPING)
