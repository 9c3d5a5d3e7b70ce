"""A trained model as a score function over all items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from mmfed.models.base import HistoryBatch, Recommender, rating_shares
from mmfed.models.own_events import Timelines, own_events
from mmfed.types import BoolArray, FloatArray, IntArray


class ItemLists(Protocol):
    """Item lists by user, in time order."""

    @property
    def indptr(self) -> IntArray: ...
    @property
    def items(self) -> IntArray: ...
    @property
    def values(self) -> FloatArray: ...


class ModelScorer:
    """Scores of every item given each user's whole history.

    Args:
        model: the recommender.
        history: what each user did up to the moment of the recommendation; with ``Timelines``, own content among it.
        user_vectors: [users, p] private vectors; None for models without.
        people: [users, attributes] what users say about themselves, as ``HistoryBatch.person``; None: nothing.
        rating_range: lowest and highest rating; used by models that predict ratings.
        hidden: modalities (by name, or "id") that are treated as missing from every item.
        cold: [items] bool, items that training never met: their ids are missing, whatever the parameters hold.
        bias: [items] put in the place of the cold items' biases; None keeps the model's.
        block: users at a time.
    """

    def __init__(
        self,
        model: Recommender,
        history: ItemLists | Timelines,
        *,
        user_vectors: FloatArray | None = None,
        people: IntArray | None = None,
        rating_range: tuple[float, float] = (1.0, 5.0),
        hidden: Sequence[str] = (),
        cold: BoolArray | None = None,
        bias: FloatArray | None = None,
        block: int = 64,
    ) -> None:
        self._model = model
        self._history = history
        self._vectors = user_vectors
        self._people = people
        self._range = rating_range
        self._block = block
        with torch.inference_mode():
            tables = model.item_tables(_without(model, hidden, cold))
            if bias is not None and cold is not None:
                given = torch.from_numpy(np.asarray(bias)).to(tables.bias.dtype)
                tables = tables._replace(bias=torch.where(torch.from_numpy(cold), given, tables.bias))
            self._tables = tables

    def __call__(self, users: IntArray) -> FloatArray:
        """[users, items] scores, float32."""
        parts = [self._scores(users[start : start + self._block]) for start in range(0, len(users), self._block)]
        return np.concatenate(parts) if parts else np.zeros((0, self._model.item_count), dtype=np.float32)

    def ratings(self, users: IntArray, items: IntArray) -> FloatArray:
        """[pairs] predicted ratings of users [pairs] for items [pairs], in the rating range."""
        low, high = self._range
        found = np.zeros(len(users), dtype=np.float64)
        for start in range(0, len(users), self._block):
            part = slice(start, start + self._block)
            with torch.inference_mode():
                states = self._states(users[part])
                chosen = torch.from_numpy(np.asarray(items[part], dtype=np.int64))[:, None, None]
                shares = self._model.rating(self._model.score_candidates(states, self._tables, chosen))
            found[part] = low + (high - low) * shares[:, 0, 0].numpy().clip(0.0, 1.0)
        return found

    def _scores(self, users: IntArray) -> FloatArray:
        with torch.inference_mode():
            return self._model.score(self._states(users), self._tables)[:, 0].numpy()

    def _states(self, users: IntArray) -> torch.Tensor:
        """[users, 1, width] states after the whole history."""
        starts, ends = self._history.indptr[users], self._history.indptr[np.asarray(users) + 1]
        lengths = ends - starts
        longest = max(int(lengths.max(initial=0)), 1)
        known = np.arange(longest) < lengths[:, None]
        items = np.zeros((len(users), longest), dtype=np.int64)
        items[known] = np.concatenate([self._history.items[a:b] for a, b in zip(starts, ends, strict=True)])
        own = ()
        if isinstance(self._history, Timelines):
            rows = np.full(items.shape, -1, dtype=np.int64)
            rows[known] = np.concatenate([self._history.rows[a:b] for a, b in zip(starts, ends, strict=True)])
            own = own_events(rows, self._history.features, self._tables.bias.dtype)
            items[rows >= 0] = 0
        ratings = np.full(items.shape, 0.5)
        if self._model.ratings:
            given = [self._history.values[a:b] for a, b in zip(starts, ends, strict=True)]
            ratings[known] = np.nan_to_num(rating_shares(np.concatenate(given), self._range), nan=0.5)
        dtype = self._tables.bias.dtype
        mask = torch.from_numpy(known).to(dtype)
        vectors = torch.zeros(len(users), self._model.private_dimensions, dtype=dtype)
        if self._vectors is not None:
            vectors = torch.from_numpy(self._vectors[users]).to(dtype)
        batch = HistoryBatch(
            items=torch.from_numpy(items),
            known=mask,
            kept=mask,
            positions=torch.from_numpy(lengths)[:, None],
            others=torch.zeros(len(users), 1, dtype=dtype),
            user_vectors=vectors,
            ratings=torch.from_numpy(ratings).to(dtype),
            own=own,
            person=() if self._people is None else torch.from_numpy(self._people[users]),
        )
        return self._model.user_states(self._tables.history[batch.items], batch)


def _without(model: Recommender, hidden: Sequence[str], cold: BoolArray | None) -> torch.Tensor | None:
    """[items, modality_columns] 0 in the columns of hidden modalities and at cold items' ids; None hides nothing."""
    columns = (*model.features.names, "id")[: model.modality_columns]
    chosen = [columns.index(name) for name in hidden]
    if not chosen and (cold is None or "id" not in columns):
        return None
    mask = torch.ones(model.item_count, model.modality_columns, dtype=model.features.present.dtype)
    mask[:, chosen] = 0
    if cold is not None and "id" in columns:
        mask[torch.from_numpy(cold), columns.index("id")] = 0
    return mask
