"""Sequences of different lengths in one tensor, filled up at the end."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Sequences(NamedTuple):
    """Frames of several clips.

    Attributes:
        values: [n, steps, ...] what lies at or after a clip's length is never read as data, whatever it is.
        lengths: [n] int64 steps of each clip, 0 where the item has none.
    """

    values: Tensor
    lengths: Tensor


def mask_of(lengths: Tensor, steps: int) -> Tensor:
    """[n, steps] bool, true before each length."""
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the steps where ``mask`` [n, steps] holds; zeros where it holds nowhere. [n, steps, d] to [n, d]."""
    kept = torch.where(mask[:, :, None], values, 0.0)
    return kept.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def last_step(values: Tensor, lengths: Tensor) -> Tensor:
    """The step before each length; zeros where the length is 0. [n, steps, d] to [n, d]."""
    steps = torch.arange(values.shape[1], device=values.device)
    return torch.where((steps == lengths[:, None] - 1)[:, :, None], values, 0.0).sum(1)
