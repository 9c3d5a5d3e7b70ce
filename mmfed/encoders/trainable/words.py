"""Word vectors of token ids: trained, or read from a file and kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmfed.encoders.trainable.layers import embedding

PADDING = 0  # token id that stands for no word


class WordVectors(nn.Module):
    """A table of word vectors; padding gives zeros.

    Args:
        words: size of the vocabulary, padding and unknown word included.
        dimensions: of a word vector; ignored where ``vectors`` are given.
        vectors: [words, d] start values, as from ``inputs.word_vectors``; None draws them from ``generator``.
        train: whether the table is a parameter; without, it is a buffer that no update carries.
        generator: of the initial values.
    """

    kept: Tensor

    def __init__(
        self,
        words: int,
        dimensions: int,
        *,
        generator: torch.Generator,
        vectors: Tensor | None = None,
        train: bool = True,
    ) -> None:
        super().__init__()
        if vectors is not None and (vectors.ndim != 2 or vectors.shape[0] != words):
            raise ValueError(f"vectors {tuple(vectors.shape)}: expected [{words}, d], one row per word")
        if vectors is None:
            vectors = embedding(words, dimensions, generator=generator, scale=0.3).weight
        start = vectors.detach().clone().to(torch.get_default_dtype())
        self.dimensions = int(start.shape[1])
        self.table = nn.Embedding(words, self.dimensions, _weight=start) if train else None
        if not train:
            self.register_buffer("kept", start, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors [n, tokens, d] of ids [n, tokens]."""
        found = nn.functional.embedding(ids, self.kept) if self.table is None else self.table(ids)
        return torch.where((ids == PADDING)[:, :, None], 0.0, found)
