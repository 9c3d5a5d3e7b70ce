"""EASE: linear item-to-item regression in closed form (Steck 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np

from mmfed.data.schema import Features, Interactions
from mmfed.errors import ExitCode, MmfedError
from mmfed.models.band_ease import ease_weights
from mmfed.models.baselines.base import Baseline, check_catalogue, history_matrix, not_fitted
from mmfed.types import FloatArray, IntArray

MOST_ITEMS = 30_000  # one [items, items] float64 matrix of this size takes 7 GiB


class EASE(Baseline):
    """B minimises ||X - X B||² + λ ||B||² with a zero diagonal; score = history · B.

    With P = (XᵀX + λI)⁻¹ the solution is B = -P / diag(P) column-wise, diagonal 0.

    Args:
        regularisation: λ, in interactions.
        decay: weight of the history when scoring, per event of age (.9 favours the latest ten or so); 1 is binary.
            B is the same either way.
    """

    name: ClassVar[str] = "ease"

    def __init__(self, regularisation: float = 100.0, *, decay: float = 1.0) -> None:
        if not regularisation > 0 or not 0 < decay <= 1:
            raise MmfedError(
                ExitCode.CONFIG,
                f"ease: regularisation {regularisation} and decay {decay} are not valid.",
                "take regularisation > 0 and 0 < decay <= 1.",
            )
        self.regularisation, self.decay = regularisation, decay
        self._weights: FloatArray | None = None

    def fit(self, train: Interactions, *, seed: int, features: Mapping[str, Features] | None = None) -> Self:
        del seed, features  # nothing is drawn
        if train.item_count > MOST_ITEMS:
            raise MmfedError(
                ExitCode.CONFIG,
                f"ease inverts an [items, items] matrix; {train.item_count} items are more than {MOST_ITEMS}.",
                "use item_knn for a catalogue of this size.",
            )
        held = history_matrix(train, np.arange(train.user_count))
        gram = (held.T @ held).toarray()
        self._weights = ease_weights(gram, self.regularisation)
        return self

    def score(self, history: Interactions, users: IntArray) -> FloatArray:
        if self._weights is None:
            raise not_fitted(self)
        check_catalogue(self, len(self._weights), history)
        return history_matrix(history, users, decay=self.decay) @ self._weights
