"""ItemKNN: items whose audience resembles that of the items in the history (Deshpande and Karypis 2004)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
from scipy import sparse

from mmfed.data.schema import Features, Interactions
from mmfed.errors import ExitCode, MmfedError
from mmfed.models.baselines.base import Baseline, check_catalogue, history_matrix, not_fitted
from mmfed.types import FloatArray, IntArray

CELLS_AT_ONCE = 2**24  # dense cosines held at once (128 MiB)


class ItemKNN(Baseline):
    """score(u, j) = sum of cosine(i, j) over the history items i among the K nearest neighbours of j.

    Args:
        neighbours: K; equal similarities at the border are all kept.
        decay: weight of the history when scoring, per event of age; 1 is the binary history.
    """

    name: ClassVar[str] = "item_knn"

    def __init__(self, neighbours: int = 200, *, decay: float = 1.0) -> None:
        if neighbours < 1 or not 0 < decay <= 1:
            raise MmfedError(
                ExitCode.CONFIG,
                f"item_knn: neighbours {neighbours} and decay {decay} are not valid.",
                "take neighbours >= 1 and 0 < decay <= 1.",
            )
        self.neighbours, self.decay = neighbours, decay
        self._item_count = 0
        self._weights: sparse.csr_array | None = None

    def fit(self, train: Interactions, *, seed: int, features: Mapping[str, Features] | None = None) -> Self:
        del seed, features  # nothing is drawn
        held = history_matrix(train, np.arange(train.user_count))
        norms = np.sqrt(np.asarray(held.sum(axis=0)).ravel())
        scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
        unit = sparse.csc_array(held.multiply(scale[None, :]))
        width = max(1, CELLS_AT_ONCE // train.item_count)
        columns = [self._nearest(unit, start, width) for start in range(0, train.item_count, width)]
        self._weights = sparse.csr_array(sparse.hstack(columns))
        self._item_count = train.item_count
        return self

    def _nearest(self, unit: sparse.csc_array, start: int, width: int) -> sparse.csc_array:
        """[items, block] cosines to each item of the block, all but its K nearest set to 0."""
        cosines = sparse.csc_array(unit.T @ unit[:, start : start + width]).toarray()
        block = np.arange(cosines.shape[1])
        cosines[start + block, block] = 0.0
        if self.neighbours < len(cosines):
            cut = len(cosines) - self.neighbours
            cosines[cosines < np.partition(cosines, cut, axis=0)[cut]] = 0.0
        return sparse.csc_array(cosines)

    def score(self, history: Interactions, users: IntArray) -> FloatArray:
        if self._weights is None:
            raise not_fitted(self)
        check_catalogue(self, self._item_count, history)
        return sparse.csr_array(history_matrix(history, users, decay=self.decay) @ self._weights).toarray()
