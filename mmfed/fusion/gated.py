"""Gated fusion: every modality passes a gate of its own (gated multimodal unit, Arevalo et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmfed.fusion.head import FusionHead, Values


class GatedFusion(FusionHead):
    """F = Σ_m g_m ⊙ z_m over present modalities, g_m = 2σ(z_m · G_m + c_m) per dimension.

    Gates start at 1, where the head equals concatenation. An item without any modality gets the learned ``missing``.
    """

    def __init__(
        self,
        widths: Mapping[str, int | None],
        dimensions: int,
        *,
        scale: float,
        generator: torch.Generator,
        meets_user: bool = True,
    ) -> None:
        super().__init__(widths, dimensions, scale=scale, generator=generator, meets_user=meets_user)
        self.gate = nn.Parameter(torch.zeros(len(widths), dimensions, dimensions))
        self.gate_bias = nn.Parameter(torch.zeros(len(widths), dimensions))
        self.missing = nn.Parameter(torch.zeros(dimensions))

    def forward(self, values: Sequence[Values], present: Tensor) -> Tensor:
        fused = (present.sum(-1, keepdim=True) == 0) * self.missing[..., None, :]
        for column, projected in enumerate(self.projected(values)):
            gate = 2 * torch.sigmoid(projected @ self.gate[..., column, :, :] + self.gate_bias[..., column, None, :])
            fused = fused + present[..., column, None] * (gate * projected)
        return fused
