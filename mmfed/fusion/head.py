"""The contract of a fusion head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class KnownProduct(NamedTuple):
    """Stands for the values of a modality where their product with its projection is known already.

    Attributes:
        product: [..., items, dimensions]
    """

    product: Tensor


Values = Tensor | KnownProduct


class FusionHead(nn.Module, ABC):
    """Projects each modality to ``dimensions`` and joins them; a missing modality is masked, never read as zeros.

    ``forward`` gives one vector per item. A head that weighs modalities by the user joins them later, in the score: it
    overrides ``table``, ``query`` and ``score``.

    Users may have parameters of their own: with one more axis of users in front of a parameter, all results have it too
    (``matrix[..., n, :]`` instead of ``matrix[n]``, ``vector[..., None, :]`` where one vector meets many items).

    Args:
        widths: feature width of each modality, by name; the order is the order of the columns of ``present``. None
            marks a modality that is a trained [items, dimensions] table already (item ids) and is not projected.
        dimensions: width of the fused vector.
        scale: of the initial projections.
        generator: of the initial weights.
        meets_user: whether ``table``, ``query`` and ``score`` will be used; without, a head has no parameters for them.
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
        super().__init__()
        self.meets_user = meets_user
        self.modalities = tuple(widths)
        self.dimensions = dimensions
        self.project = nn.ParameterDict(
            {
                name: _projection(width, dimensions, scale=scale, generator=generator)
                for name, width in widths.items()
                if width is not None
            }
        )

    @abstractmethod
    def forward(self, values: Sequence[Values], present: Tensor) -> Tensor:
        """Fuse.

        Args:
            values: one [..., items, width] per modality; a head reads them through ``projected``.
            present: [..., items, modalities] 1 where the item has the modality, 0 where it is missing.

        Returns:
            [..., items, dimensions]
        """

    def table(self, values: Sequence[Values], present: Tensor) -> Tensor:
        """[..., items, width] what ``score`` compares a query with; the fused vectors unless a head says otherwise."""
        return self(values, present)

    def query(self, states: Tensor) -> Tensor:
        """[..., width] what ``score`` compares items with, from user states [..., dimensions]."""
        return states

    def score(self, queries: Tensor, table: Tensor) -> Tensor:
        """[..., items] from queries [..., width] and a table [items, width], or one a user [users, items, width]."""
        return queries @ table.mT

    def score_rows(self, queries: Tensor, rows: Tensor) -> Tensor:
        """[..., candidates] from queries [..., width] and table rows [..., candidates, width]."""
        return (queries[..., None, :] * rows).sum(-1)

    def projected(self, values: Sequence[Values]) -> list[Tensor]:
        """One [..., items, dimensions] per modality."""
        return [
            value.product
            if isinstance(value, KnownProduct)
            else (value @ self.project[name] if name in self.project else value)
            for name, value in zip(self.modalities, values, strict=True)
        ]


def _projection(width: int, dimensions: int, *, scale: float, generator: torch.Generator) -> nn.Parameter:
    """A [width, dimensions] matrix that keeps lengths on average: entries N(0, scale² / dimensions)."""
    return nn.Parameter(torch.randn(width, dimensions, generator=generator) * (scale / dimensions**0.5))


def where_present(values: Tensor, present: Tensor) -> Tensor:
    """[..., items, d] with zeros where ``present`` [..., items] is 0; the values themselves if nothing is."""
    return values if holds((present == 1).all()) else values * present[..., None]


def of_empty(present: Tensor, missing: Tensor) -> Tensor | None:
    """[..., items, d] ``missing`` [..., d] at items without any modality, else zeros; None where there are none."""
    empty = present.sum(-1, keepdim=True) == 0
    return None if holds(~empty.any()) else empty * missing[..., None, :]


def holds(condition: Tensor) -> bool:
    """A condition that saves work; False where it differs between users inside ``torch.func.vmap``, who hide it."""
    try:
        return bool(condition)
    except RuntimeError:
        return False
