"""Adapters: few trainable weights behind a frozen backbone's feature vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmfed.encoders.trainable.layers import drawn
from mmfed.encoders.trainable.tower import Tower


class BottleneckAdapter(Tower):
    """x + W_up relu(W_down x), W_up = 0 at the start, so that training begins at the frozen features (Houlsby et al.
    2019, "Parameter-Efficient Transfer Learning for NLP"; one adapter, behind the last layer).

    Args:
        width: of the frozen features, and of the vectors.
        bottleneck: columns in between.
        generator: of the initial weights.
    """

    def __init__(self, width: int, *, generator: torch.Generator, bottleneck: int = 32) -> None:
        super().__init__(width)
        self.down = drawn(nn.Linear, width, bottleneck, generator=generator)
        self.up = drawn(nn.Linear, bottleneck, width, generator=generator)
        with torch.no_grad():
            self.up.weight.zero_()
            self.up.bias.zero_()

    def forward(self, inputs: Tensor) -> Tensor:
        """Vectors [n, width] of frozen features [n, width]."""
        values = inputs.to(self.down.weight.dtype)
        return values + self.up(functional.relu(self.down(values)))


class LinearAdapter(Tower):
    """A linear map of frozen features.

    Args:
        width: columns of the vectors.
        features: columns of the frozen features.
        generator: of the initial weights.
    """

    def __init__(self, width: int, *, features: int, generator: torch.Generator) -> None:
        super().__init__(width)
        self.project = drawn(nn.Linear, features, width, generator=generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Vectors [n, width] of frozen features [n, features]."""
        return self.project(inputs.to(self.project.weight.dtype))
