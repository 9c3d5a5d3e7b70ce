"""The contract of a fusion head, and the heads by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class FusionHead(nn.Module, ABC):
    """Projects each modality to ``dimensions`` and joins them; a missing modality is masked, never read as zeros.

    Args:
        widths: feature width of each modality, by name; the order is the order of the columns of ``present``.
        dimensions: width of the fused vector.
    """

    def __init__(self, widths: Mapping[str, int], dimensions: int) -> None:
        super().__init__()
        self.modalities = tuple(widths)
        self.dimensions = dimensions

    @abstractmethod
    def forward(self, values: tuple[Tensor, ...], present: Tensor) -> Tensor:
        """Fuse.

        Args:
            values: one [items, width] per modality.
            present: [items, modalities] 1 where the item has the modality, 0 where it is missing.

        Returns:
            [items, dimensions]
        """


def projection(width: int, dimensions: int, *, scale: float, generator: torch.Generator) -> nn.Parameter:
    """A [width, dimensions] matrix that keeps lengths on average: entries N(0, scale² / dimensions)."""
    return nn.Parameter(torch.randn(width, dimensions, generator=generator) * (scale / dimensions**0.5))
