"""The contract of a trainable recommender.

Training, evaluation and serving know a model through four steps: ``item_tables`` (public items to tensors, once per
round for everybody), ``user_states`` (a history to states), ``score`` (states to scores of all items) and ``scopes``
(which parameters may leave a device).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Scope(StrEnum):
    """Where a parameter may live."""

    SHARED = "shared"  # aggregated by the server
    PRIVATE = "private"  # never leaves the device


@dataclass(frozen=True, eq=False)
class ItemFeatures:
    """The public catalogue as tensors.

    Attributes:
        values: one [items, width] float tensor per modality, in a fixed order.
        names: the modality names, same order.
        present: [items, modalities] float, 1 where the item has the modality.
    """

    names: tuple[str, ...]
    values: tuple[Tensor, ...]
    present: Tensor

    @property
    def item_count(self) -> int:
        return int(self.present.shape[0])

    @property
    def widths(self) -> dict[str, int]:
        return {name: int(value.shape[1]) for name, value in zip(self.names, self.values, strict=True)}

    def __deepcopy__(self, memo: object) -> ItemFeatures:
        """Copies of a model share the catalogue: it never changes, and it is the largest thing there is."""
        del memo
        return self

    def to(self, dtype: torch.dtype) -> ItemFeatures:
        """The same features in another precision."""
        return ItemFeatures(self.names, tuple(value.to(dtype) for value in self.values), self.present.to(dtype))


def item_features(modalities: Mapping[str, tuple[np.ndarray, np.ndarray]], item_count: int) -> ItemFeatures:
    """Pack modality arrays ([items, width] values, [items] presence) into tensors; absent rows become zeros."""
    names = tuple(modalities)
    values = tuple(
        torch.from_numpy(np.where(present[:, None], value, 0).astype(np.float32))
        for value, present in modalities.values()
    )
    columns = [np.asarray(present, dtype=np.float32) for _, present in modalities.values()]
    present = np.stack(columns, axis=1) if columns else np.zeros((item_count, 0), dtype=np.float32)
    return ItemFeatures(names, values, torch.from_numpy(present))


class ItemTables(NamedTuple):
    """What all users share in a round.

    Attributes:
        history: [items, d] what an item says about the person who touched it.
        target: [items, d] what a state is compared with.
        bias: [items]
    """

    history: Tensor
    target: Tensor
    bias: Tensor


class HistoryBatch(NamedTuple):
    """Histories of several users, padded at the end.

    Attributes:
        items: [users, events] int64 item index in time order, 0 where padded.
        known: [users, events] 1 where there is an event, 0 where padded.
        kept: [users, events] 1 where the event may enter a state (history dropout sets 0); never 1 where padded.
        positions: [users, states] int64; state p is formed from the events before index ``positions[u, p]``.
        user_vectors: [users, d] the private vectors, zeros where the model has none.
    """

    items: Tensor
    known: Tensor
    kept: Tensor
    positions: Tensor
    user_vectors: Tensor


class Recommender(nn.Module, ABC):
    """A trainable multimodal recommender; see the module docstring for the four steps.

    Args:
        features: the public catalogue; kept outside the module's parameters, so it is never sent.
        dimensions: width of states and item vectors.
    """

    def __init__(self, features: ItemFeatures, dimensions: int) -> None:
        super().__init__()
        self.features = features
        self.dimensions = dimensions

    @property
    def item_count(self) -> int:
        return self.features.item_count

    @abstractmethod
    def item_tables(self) -> ItemTables:
        """Tables of the whole catalogue."""

    @abstractmethod
    def user_states(self, vectors: Tensor, batch: HistoryBatch) -> Tensor:
        """States [users, states, d] of the batch's positions, from its history vectors [users, events, d]."""

    def score(self, states: Tensor, tables: ItemTables) -> Tensor:
        """Scores [users, states, items] of every item for every state."""
        return states @ tables.target.T + tables.bias

    def score_candidates(self, states: Tensor, tables: ItemTables, candidates: Tensor) -> Tensor:
        """Scores [users, states, candidates] of chosen items only; ``candidates`` holds item indices."""
        return (states[:, :, None, :] * tables.target[candidates]).sum(-1) + tables.bias[candidates]

    def auxiliary_losses(self, tables: ItemTables) -> dict[str, Tensor]:
        """Further losses by task name, computed from public labels; empty for single-task models."""
        del tables
        return {}

    def scopes(self) -> dict[str, Scope]:
        """Scope of every parameter; parameters of a user's own are declared private here."""
        return {name: Scope.SHARED for name, _ in self.named_parameters()}

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that may be put on the wire, in a fixed order (sorted by name)."""
        scopes = self.scopes()
        return {
            name: parameter
            for name, parameter in sorted(self.named_parameters(), key=lambda item: item[0])
            if scopes.get(name) is Scope.SHARED
        }

    def forward(self, batch: HistoryBatch) -> Tensor:
        """Scores [users, states, items] from histories."""
        tables = self.item_tables()
        return self.score(self.user_states(tables.history[batch.items], batch), tables)
