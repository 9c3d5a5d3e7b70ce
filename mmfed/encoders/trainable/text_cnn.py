"""TextCNN over word vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmfed.encoders.trainable.layers import drawn
from mmfed.encoders.trainable.tower import Tower
from mmfed.encoders.trainable.words import PADDING, WordVectors


class TextCnn(Tower):
    """Convolutions over 2, 3 and 4 neighbouring words, the strongest response of each filter, linear map (Kim 2014,
    "Convolutional Neural Networks for Sentence Classification", without dropout).

    Args:
        width: columns of the vectors.
        words: size of the vocabulary; id 0 is padding.
        dimensions: of a word vector drawn here.
        filters: per kernel size.
        kernels: words a filter sees.
        vectors: [words, d] start values of the word vectors.
        train_words: whether word vectors are trained.
        generator: of the initial weights.
    """

    def __init__(
        self,
        width: int,
        *,
        words: int,
        generator: torch.Generator,
        dimensions: int = 64,
        filters: int = 32,
        kernels: Sequence[int] = (2, 3, 4),
        vectors: Tensor | None = None,
        train_words: bool = True,
    ) -> None:
        super().__init__(width)
        self.words = WordVectors(words, dimensions, vectors=vectors, train=train_words, generator=generator)
        self.kernels = tuple(kernels)
        self.convolutions = nn.ModuleList(
            drawn(nn.Conv1d, self.words.dimensions, filters, kernel, generator=generator) for kernel in kernels
        )
        self.project = drawn(nn.Linear, filters * len(kernels), width, generator=generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Vectors [n, width] of token ids [n, tokens], padded with 0 at the end; the amount of padding is without
        effect, and a text shorter than a kernel is seen by it once."""
        values = self.words(inputs).transpose(1, 2)
        starts = (inputs != PADDING)[:, None, :]
        strongest = []
        for kernel, convolution in zip(self.kernels, self.convolutions, strict=True):
            # One window per word: padding behind the text completes the last ones, windows of padding alone are cut.
            windows = convolution(functional.pad(values, (0, kernel - 1)))
            strongest.append(torch.where(starts, functional.relu(windows), 0.0).amax(2))
        return self.project(torch.cat(strongest, dim=1))
