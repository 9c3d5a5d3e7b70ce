"""A trained model as a score function over all items."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from mmfed.models.base import HistoryBatch, Recommender
from mmfed.types import FloatArray, IntArray


class ItemLists(Protocol):
    """Item lists by user, in time order."""

    @property
    def indptr(self) -> IntArray: ...
    @property
    def items(self) -> IntArray: ...


class ModelScorer:
    """Scores of every item given each user's whole history.

    Args:
        model: the recommender.
        history: what each user did up to the moment of the recommendation.
        user_vectors: [users, d] private vectors; None for models without.
        block: users at a time.
    """

    def __init__(
        self, model: Recommender, history: ItemLists, *, user_vectors: FloatArray | None = None, block: int = 64
    ) -> None:
        self._model = model
        self._history = history
        self._vectors = user_vectors
        self._block = block
        with torch.inference_mode():
            self._tables = model.item_tables()

    def __call__(self, users: IntArray) -> FloatArray:
        """[users, items] scores, float32."""
        parts = [self._scores(users[start : start + self._block]) for start in range(0, len(users), self._block)]
        return np.concatenate(parts) if parts else np.zeros((0, self._model.item_count), dtype=np.float32)

    def _scores(self, users: IntArray) -> FloatArray:
        starts, ends = self._history.indptr[users], self._history.indptr[np.asarray(users) + 1]
        lengths = ends - starts
        longest = max(int(lengths.max(initial=0)), 1)
        known = np.arange(longest) < lengths[:, None]
        items = np.zeros((len(users), longest), dtype=np.int64)
        items[known] = np.concatenate([self._history.items[a:b] for a, b in zip(starts, ends, strict=True)])
        with torch.inference_mode():
            dtype = self._tables.bias.dtype
            mask = torch.from_numpy(known).to(dtype)
            vectors = torch.zeros(len(users), self._model.dimensions, dtype=dtype)
            if self._vectors is not None:
                vectors = torch.from_numpy(self._vectors[users]).to(dtype)
            batch = HistoryBatch(torch.from_numpy(items), mask, mask, torch.from_numpy(lengths)[:, None], vectors)
            states = self._model.user_states(self._tables.history[batch.items], batch)
            return self._model.score(states, self._tables)[:, 0].numpy()
