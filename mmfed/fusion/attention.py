"""Attention fusion: a softmax over the modalities an item has weighs their projections."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmfed.fusion.head import FusionHead, projection


class AttentionFusion(FusionHead):
    """F = Σ_m a_m z_m · M, a = softmax over present modalities of ⟨z_m, w_m⟩ (``mmfnet`` without the user).

    An item without any modality gets the learned vector ``missing``. The weights are scaled by the number of present
    modalities, so that with equal attention the result equals the sum that concatenation gives.
    """

    def __init__(self, widths: Mapping[str, int], dimensions: int, *, scale: float, generator: torch.Generator) -> None:
        super().__init__(widths, dimensions)
        self.project = nn.ParameterList(
            [projection(width, dimensions, scale=scale, generator=generator) for width in widths.values()]
        )
        self.query = nn.Parameter(torch.zeros(len(widths), dimensions))
        self.missing = nn.Parameter(torch.zeros(dimensions))

    def forward(self, values: tuple[Tensor, ...], present: Tensor) -> Tensor:
        if not self.modalities:
            return self.missing.expand(present.shape[0], -1)
        projected = torch.stack([value @ weight for value, weight in zip(values, self.project, strict=True)], dim=1)
        logits = (projected * self.query).sum(-1)
        weights = torch.softmax(logits.masked_fill(present == 0, -1e9), dim=1) * present
        count = present.sum(1, keepdim=True)
        fused = ((weights * count)[:, :, None] * projected).sum(1)
        return fused + (count == 0) * self.missing
