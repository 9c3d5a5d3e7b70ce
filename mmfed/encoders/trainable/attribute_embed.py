"""Attribute columns to vectors: embedded categories, tags and standardised numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmfed.encoders.trainable.layers import drawn, embedding
from mmfed.encoders.trainable.tower import Tower


class AttributeColumns(NamedTuple):
    """Attributes of items.

    Attributes:
        codes: [n, columns] int64, -1 where missing.
        tags: [n, tags] 1 where the item has the tag; a row without any is missing.
        numbers: [n, numbers] standardised; anything where missing.
        known: [n, numbers] bool.
    """

    codes: Tensor
    tags: Tensor
    numbers: Tensor
    known: Tensor


class AttributeEmbedding(Tower):
    """Every column embedded, concatenated, one hidden layer, linear map (the article's P = Dense(Embed(z))).

    A missing value has a learned vector of its own (0 at the start).

    Args:
        width: columns of the vectors.
        labels: number of labels of each categorical column.
        tags: number of tags.
        numbers: number of numeric columns.
        dimensions: of each column's embedding.
        hidden: size of the hidden layer.
        generator: of the initial weights.

    Raises:
        ValueError: there is no column at all.
    """

    def __init__(
        self,
        width: int,
        *,
        labels: Sequence[int],
        generator: torch.Generator,
        tags: int = 0,
        numbers: int = 0,
        dimensions: int = 16,
        hidden: int = 64,
    ) -> None:
        super().__init__(width)
        blocks = len(labels) + (tags > 0) + (numbers > 0)
        if not blocks:
            raise ValueError("attributes without a single column cannot be embedded")
        self.tables = nn.ModuleList(_table(count, dimensions, generator) for count in labels)
        self.tags = drawn(nn.Linear, tags + 1, dimensions, bias=False, generator=generator) if tags else None
        self.numbers = drawn(nn.Linear, 2 * numbers, dimensions, bias=False, generator=generator) if numbers else None
        self.mix = drawn(nn.Linear, blocks * dimensions, hidden, generator=generator)
        self.project = drawn(nn.Linear, hidden, width, generator=generator)

    def forward(self, inputs: AttributeColumns) -> Tensor:
        """Vectors [n, width]."""
        dtype = self.project.weight.dtype
        blocks = [table(inputs.codes[:, column] + 1) for column, table in enumerate(self.tables)]
        if self.tags is not None:
            tags = inputs.tags.to(dtype)
            count = tags.sum(1, keepdim=True)
            blocks.append(self.tags(torch.cat([tags / count.clamp(min=1), (count == 0).to(dtype)], dim=1)))
        if self.numbers is not None:
            numbers = torch.where(inputs.known, inputs.numbers, 0.0).to(dtype)
            blocks.append(self.numbers(torch.cat([numbers, (~inputs.known).to(dtype)], dim=1)))
        return self.project(functional.relu(self.mix(torch.cat(blocks, dim=1))))


def _table(count: int, dimensions: int, generator: torch.Generator) -> nn.Embedding:
    table = embedding(count + 1, dimensions, generator=generator, scale=dimensions**-0.5)
    with torch.no_grad():
        table.weight[0] = 0.0  # the row of a missing label
    return table
