"""A small CNN from pixels, trained from scratch."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmfed.encoders.trainable.layers import drawn
from mmfed.encoders.trainable.tower import Tower

CHANNELS = (3, 24, 48, 72)
GROUPS = 8


class ImageCnn(Tower):
    """Three 3×3 convolutions of stride 2 with group normalisation, mean over the picture, linear map.

    About 47 000 parameters at width 64 and 1.3 million multiplications a picture of 32×32: what a phone can train on a
    whole catalogue. Group normalisation (Wu and He 2018) instead of batch normalisation, which would mix people's
    records and has no gradient per record.

    Args:
        width: columns of the vectors.
        generator: of the initial weights.
    """

    def __init__(self, width: int, *, generator: torch.Generator) -> None:
        super().__init__(width)
        self.convolutions = nn.ModuleList(
            drawn(nn.Conv2d, before, after, 3, stride=2, padding=1, generator=generator)
            for before, after in pairwise(CHANNELS)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, channels) for channels in CHANNELS[1:])
        self.project = drawn(nn.Linear, CHANNELS[-1], width, generator=generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Vectors [n, width] of pictures [n, 3, height, width] with values 0 to 255 (uint8 or floating)."""
        values = (inputs.to(self.project.weight.dtype) - 127.5) / 63.75
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            values = functional.relu(norm(convolution(values)))
        return self.project(values.mean((2, 3)))
