"""Product fusion: the modalities multiply, dimension by dimension (the article's I·T·P)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmfed.fusion.head import FusionHead, Values


class ProductFusion(FusionHead):
    """F = Π_m (1 + z_m) − 1 over present modalities.

    A bare product of small vectors vanishes and has no gradient; with the 1 it holds the trilinear term together with
    all lower ones, and a missing modality multiplies by 1. An item without any modality gets the learned ``missing``.
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
        self.missing = nn.Parameter(torch.zeros(dimensions))

    def forward(self, values: Sequence[Values], present: Tensor) -> Tensor:
        missing = self.missing[..., None, :]
        product = torch.ones_like(missing)
        for column, projected in enumerate(self.projected(values)):
            product = product * (1 + present[..., column, None] * projected)
        return (product - 1) + (present.sum(-1, keepdim=True) == 0) * missing
