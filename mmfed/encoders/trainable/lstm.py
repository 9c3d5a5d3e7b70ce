"""Recurrent networks over word vectors: LSTM and GRU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmfed.encoders.trainable.layers import drawn
from mmfed.encoders.trainable.masking import last_step
from mmfed.encoders.trainable.recurrence import Gru, Lstm
from mmfed.encoders.trainable.tower import Tower
from mmfed.encoders.trainable.words import PADDING, WordVectors


class TextLstm(Tower):
    """The state after a text's last word, linear map (the article's LSTM over Word2Vec).

    Args:
        width: columns of the vectors.
        words: size of the vocabulary; id 0 is padding.
        dimensions: of a word vector drawn here.
        hidden: size of the state.
        vectors: [words, d] start values of the word vectors.
        train_words: whether word vectors are trained.
        generator: of the initial weights.
    """

    recurrence: type[Lstm] | type[Gru] = Lstm

    def __init__(
        self,
        width: int,
        *,
        words: int,
        generator: torch.Generator,
        dimensions: int = 64,
        hidden: int = 64,
        vectors: Tensor | None = None,
        train_words: bool = True,
    ) -> None:
        super().__init__(width)
        self.words = WordVectors(words, dimensions, vectors=vectors, train=train_words, generator=generator)
        self.recurrent = self.recurrence(self.words.dimensions, hidden, generator=generator)
        self.project = drawn(nn.Linear, hidden, width, generator=generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Vectors [n, width] of token ids [n, tokens], padded with 0 at the end."""
        states = self.recurrent(self.words(inputs))
        return self.project(last_step(states, (inputs != PADDING).sum(1)))


class TextGru(TextLstm):
    """The same with a gated recurrent unit: three quarters of the parameters."""

    recurrence = Gru
