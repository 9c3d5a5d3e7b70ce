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

        ``mix`` may be substituted by one of every user, [users, decays, d, d].

        Args:
            vectors: [users, events, d] history vectors of the batch's events.
            batch: which events are known and kept, and the positions.

        Returns:
            [users, states, d]
        """
        states = vectors.new_zeros(())
        for index, pooled in enumerate(self._pooled(vectors, batch)):
            states = states + pooled @ self.mix[..., index, :, :]
        return states

    def unmixed(self, vectors: Tensor, batch: HistoryBatch) -> Tensor:
        """[users, states, width] the mean over the decays without A_γ, of vectors of any width."""
        return sum(self._pooled(vectors, batch), vectors.new_zeros(())) / len(self.decays)

    def _pooled(self, vectors: Tensor, batch: HistoryBatch) -> Iterator[Tensor]:
        """[users, states, width] of each decay."""
        age, enters = self._age(batch, vectors.dtype), self.before(batch)
        age = age * (1 - batch.others[:, :, None])
        # An event that does not enter is infinitely old: one exponential per decay, and no mask.
        age = age.masked_fill(~enters, float("inf"))
        for decay in self.decays:
            weights = enters.to(vectors.dtype) if decay == 1.0 else torch.exp(age * math.log(decay))
            total = weights.sum(-1, keepdim=True).clamp_min(1e-12) ** 0.75
            yield weights @ vectors / total

    def before(self, batch: HistoryBatch) -> Tensor:
        """[users, states, events] bool, whether an event enters the state of a position."""
        age = self._age(batch, torch.float32)
        past = (age >= 0) & (age < self.history)
        return torch.where(batch.others[:, :, None] > 0, age != -1, past) & (batch.kept[:, None, :] > 0)

    @staticmethod
    def _age(batch: HistoryBatch, dtype: torch.dtype) -> Tensor:
        """[users, states, events] events between an event and a position; negative from the position on."""
        events = torch.arange(batch.items.shape[1], device=batch.items.device, dtype=dtype)
        return (batch.positions - 1).to(dtype)[:, :, None] - events
