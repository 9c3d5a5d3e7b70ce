"""Late fusion: every modality scores alone, the scores are averaged with learned weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmfed.fusion.head import FusionHead, Values


class LateFusion(FusionHead):
    """score = M · Σ_m w_m ⟨u, z_m⟩ / Σ_m w_m over the M present modalities, w = exp of a learned logit each.

    A weighted mean of scores is a logarithmic opinion pool of the modalities' rankings. Since the weights are the same
    for every user, the mean can be taken of the vectors, once per item. An item without any gets the learned
    ``missing``.
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
        self.weight = nn.Parameter(torch.zeros(len(widths)))
        self.missing = nn.Parameter(torch.zeros(dimensions))

    def forward(self, values: Sequence[Values], present: Tensor) -> Tensor:
        count = present.sum(-1, keepdim=True)
        share = present * torch.exp(self.weight)[..., None, :] if len(self.modalities) else present
        share = share * count / share.sum(-1, keepdim=True).clamp_min(1e-12)
        fused = (count == 0) * self.missing[..., None, :]
        for column, projected in enumerate(self.projected(values)):
            fused = fused + share[..., column, None] * projected
        return fused
