"""Popularity: everyone gets the items most people had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np

from mmfed.data.schema import Features, Interactions
from mmfed.models.baselines.base import Baseline, check_catalogue, not_fitted
from mmfed.types import FloatArray, IntArray


class Popularity(Baseline):
    """Number of training users of each item; the list is the same for all but for what each one knows."""

    name: ClassVar[str] = "popularity"

    def __init__(self) -> None:
        self._counts: FloatArray | None = None

    def fit(self, train: Interactions, *, seed: int, features: Mapping[str, Features] | None = None) -> Self:
        del seed, features  # nothing is drawn
        self._counts = train.users_per_item().astype(np.float64)
        return self

    def score(self, history: Interactions, users: IntArray) -> FloatArray:
        if self._counts is None:
            raise not_fitted(self)
        check_catalogue(self, len(self._counts), history)
        return np.tile(self._counts, (len(users), 1))
