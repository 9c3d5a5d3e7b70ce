"""Concatenation fusion: F = [I; T; P] followed by a linear map (the article's F=[I;T;P])."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmfed.fusion.head import FusionHead, projection


class ConcatFusion(FusionHead):
    """A linear map of the concatenation, one block per modality; a missing block adds its learned substitute."""

    def __init__(self, widths: Mapping[str, int], dimensions: int, *, scale: float, generator: torch.Generator) -> None:
        super().__init__(widths, dimensions)
        self.project = nn.ParameterList(
            [projection(width, dimensions, scale=scale, generator=generator) for width in widths.values()]
        )
        self.missing = nn.Parameter(torch.zeros(len(widths), dimensions))

    def forward(self, values: tuple[Tensor, ...], present: Tensor) -> Tensor:
        fused = (1 - present) @ self.missing
        for column, (value, weight) in enumerate(zip(values, self.project, strict=True)):
            fused = fused + present[:, column, None] * (value @ weight)
        return fused
