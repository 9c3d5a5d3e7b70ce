"""The user state pooled from the user's own history with several recency decays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from mmfed.models.base import HistoryBatch


class HistoryPooling(nn.Module):
    """q_t = Σ_γ A_γ · Σ_{s<t} γ^(t-1-s) h_s / (Σ_{s<t} γ^(t-1-s))^0.75, A_γ initialised to I / #decays.

    The exponent .75 lets a longer history speak louder without growing linearly. An empty history gives zeros.

    Args:
        dimensions: width d of history vectors and states.
        decays: the γ, each in (0, 1]; 1 is a plain sum.
        history: events that count, the latest before a position.
    """

    def __init__(self, dimensions: int, decays: Sequence[float], history: int) -> None:
        super().__init__()
        self.decays = tuple(decays)
        self.history = history
        self.mix = nn.Parameter(torch.eye(dimensions).repeat(len(decays), 1, 1) / len(decays))

    def forward(self, vectors: Tensor, batch: HistoryBatch) -> Tensor:
        """Pool.

        Args:
            vectors: [users, events, d] history vectors of the batch's events.
            batch: which events are known and kept, and the positions.

        Returns:
            [users, states, d]
        """
        states = vectors.new_zeros(())
        for weights, mix in zip(self._weights(batch, vectors.dtype), self.mix, strict=True):
            states = states + weights @ vectors @ mix
        return states

    def unmixed(self, vectors: Tensor, batch: HistoryBatch) -> Tensor:
        """[users, states, width] the mean over the decays without A_γ, of vectors of any width."""
        return sum(self._weights(batch, vectors.dtype), vectors.new_zeros(())) @ vectors / len(self.decays)

    def _weights(self, batch: HistoryBatch, dtype: torch.dtype) -> Iterator[Tensor]:
        """[users, states, events] of each decay."""
        before = self.before(batch)
        age = self._age(batch).clamp_min(0).to(dtype) * (1 - batch.others[:, :, None])
        for decay in self.decays:
            weights = before * torch.exp(age * math.log(decay))
            yield weights / weights.sum(-1, keepdim=True).clamp_min(1e-12) ** 0.75

    def before(self, batch: HistoryBatch) -> Tensor:
        """[users, states, events] 1 where an event enters the state of a position."""
        age = self._age(batch)
        past = (age >= 0) & (age < self.history)
        return torch.where(batch.others[:, :, None] > 0, age != -1, past) * batch.kept[:, None, :]

    def _age(self, batch: HistoryBatch) -> Tensor:
        """[users, states, events] events between an event and a position; negative from the position on."""
        return batch.positions[:, :, None] - 1 - torch.arange(batch.items.shape[1], device=batch.items.device)
