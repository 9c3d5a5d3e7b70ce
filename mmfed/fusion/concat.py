"""Concatenation fusion: F = [I; T; P] followed by a linear map (the article's F=[I;T;P])."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmfed.fusion.head import FusionHead, Values, holds, where_present


class ConcatFusion(FusionHead):
    """A linear map of the concatenation, one block per modality; a missing block adds its learned substitute."""

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
        self.missing = nn.Parameter(torch.zeros(len(widths), dimensions))

    def forward(self, values: Sequence[Values], present: Tensor) -> Tensor:
        fused = None
        for column, projected in enumerate(self.projected(values)):
            part = where_present(projected, present[..., column])
            fused = part if fused is None else fused + part
        if fused is None or not holds((present == 1).all()):
            substitutes = (1 - present) @ self.missing
            fused = substitutes if fused is None else fused + substitutes
        return fused

    def design(self, values: Sequence[Tensor], present: Tensor) -> Tensor:
        """[items, columns] F without the tables: the fused vector is this times the stacked parameters, plus tables."""
        parts = [
            present[:, column, None] * value
            for column, (name, value) in enumerate(zip(self.modalities, values, strict=True))
            if name in self.project
        ]
        return torch.cat([*parts, 1 - present], dim=1)
