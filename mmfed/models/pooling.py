"""The user state pooled from the user's own history with several recency decays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from mmfed.models.base import HistoryBatch

LONGEST_TABLE, TABLE_STEP = 1024, 64  # events of a history up to which the weights are looked up


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
        pooled = self._pooled(vectors, batch)
        return pooled.flatten(-2) @ self.mix.flatten(-3, -2)

    def unmixed(self, vectors: Tensor, batch: HistoryBatch) -> Tensor:
        """[users, states, width] the mean over the decays without A_γ, of vectors of any width."""
        return self._pooled(vectors, batch).mean(-2)

    def weights(self, batch: HistoryBatch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """What an event counts in a state if it is kept, and what sums are divided by.

        Returns:
            [users, states · decays, events] weights of the kept events, and [users, states · decays, 1] Σ^0.75 of them.
        """
        counts = self._counts(batch, dtype).flatten(1, 2)
        return counts, (counts @ batch.kept[:, :, None]).clamp_min_(1e-12).pow_(0.75)

    def _pooled(self, vectors: Tensor, batch: HistoryBatch) -> Tensor:
        """[users, states, decays, width]."""
        weights, divisor = self.weights(batch, vectors.dtype)
        summed = weights @ (vectors * batch.kept[:, :, None]) / divisor
        return summed.unflatten(1, (-1, len(self.decays)))

    def _counts(self, batch: HistoryBatch, dtype: torch.dtype) -> Tensor:
        """[users, states, decays, events] what an event counts in a state if it is kept."""
        events = batch.items.shape[1]
        if events > LONGEST_TABLE:
            age = self._age(batch, torch.float64)
            return _counts(age, batch.others[..., None] > 0, self.decays, self.history).to(dtype)
        rounded = -(-events // TABLE_STEP) * TABLE_STEP
        table = _table(self.decays, self.history, rounded, dtype)
        rows = batch.positions + (batch.others > 0) * (rounded + 1)
        found = table.flatten(1).index_select(0, rows.flatten())
        return found.view(*rows.shape, len(self.decays), rounded)[..., :events]

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


def _counts(age: Tensor, others: Tensor, decays: tuple[float, ...], history: int) -> Tensor:
    """[..., decays, events] γ^age where an event of an age [..., events] enters; of ``others`` 1, but 0 for itself."""
    enters = torch.where(others, age != -1, (age >= 0) & (age < history))
    exponent = torch.where(others, 0.0, age.clamp_min(0))
    return torch.stack([torch.where(enters, decay**exponent, 0.0) for decay in decays], dim=-2)


@lru_cache(maxsize=32)
def _table(decays: tuple[float, ...], history: int, events: int, dtype: torch.dtype) -> Tensor:
    """[2 (events + 1), decays, events] of every position, states of the events before first, then of all others."""
    age = (torch.arange(events + 1)[:, None] - 1 - torch.arange(events)).to(torch.float64)
    parts = [_counts(age, torch.tensor(others), decays, history) for others in (False, True)]
    return torch.cat(parts).to(dtype)
