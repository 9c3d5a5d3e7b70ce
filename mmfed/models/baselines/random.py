"""Random order: the floor of every table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np

from mmfed.data.schema import Features, Interactions
from mmfed.models.baselines.base import Baseline, BaselineKind, check_catalogue, not_fitted
from mmfed.rng import derive, hash_uniform
from mmfed.types import FloatArray, IntArray


class RandomBaseline(Baseline):
    """A fixed random score per (user, item)."""

    name: ClassVar[str] = "random"
    kind: ClassVar[BaselineKind] = "no data"
    drawn: ClassVar[bool] = True

    def __init__(self) -> None:
        self._fitted: tuple[int, int] | None = None

    def fit(self, train: Interactions, *, seed: int, features: Mapping[str, Features] | None = None) -> Self:
        del features
        self._fitted = (derive(seed, "baseline", "random"), train.item_count)
        return self

    def score(self, history: Interactions, users: IntArray) -> FloatArray:
        if self._fitted is None:
            raise not_fitted(self)
        key, items = self._fitted
        check_catalogue(self, items, history)
        return hash_uniform(key, users, np.arange(items))
