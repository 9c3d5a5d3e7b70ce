"""One small case of every trainable encoder, for the suites that every one must pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmfed.encoders.trainable.adapter import BottleneckAdapter, LinearAdapter
from mmfed.encoders.trainable.attribute_embed import AttributeColumns, AttributeEmbedding
from mmfed.encoders.trainable.audio_rnn import AudioCnn, AudioGru
from mmfed.encoders.trainable.image_cnn import ImageCnn
from mmfed.encoders.trainable.lora import LoraTransformer, Tokens
from mmfed.encoders.trainable.lstm import TextGru, TextLstm
from mmfed.encoders.trainable.masking import Sequences
from mmfed.encoders.trainable.text_cnn import TextCnn
from mmfed.encoders.trainable.tower import Tower
from mmfed.encoders.trainable.video_pool import VideoPool

N, WIDTH, WORDS, BANDS = 5, 6, 12, 7


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[torch.Generator], Tower]
    inputs: Callable[[torch.Generator], Any]

    def tower(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tower:
        """With every parameter away from its start, so that zero-initialised ones do not hide their neighbours."""
        tower = self.build(generator(seed)).to(dtype)
        with torch.no_grad():
            for parameter in tower.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator(seed + 1)).to(dtype)
        return tower


def tokens(g: torch.Generator) -> Tensor:
    """Texts of 0, 1, 3, 6 and 9 words."""
    ids = torch.randint(1, WORDS, (N, 9), generator=g)
    return torch.where(torch.arange(9) < torch.tensor([0, 1, 3, 6, 9])[:, None], ids, 0)


def frames(g: torch.Generator) -> Sequences:
    return Sequences(torch.randn(N, 13, BANDS, generator=g), torch.tensor([0, 1, 4, 10, 13]))


def video(g: torch.Generator) -> Sequences:
    pixels = torch.randint(0, 256, (N, 3, 3, 16, 16), generator=g, dtype=torch.uint8)
    return Sequences(pixels, torch.tensor([0, 1, 2, 3, 3]))


def columns(g: torch.Generator) -> AttributeColumns:
    return AttributeColumns(
        torch.randint(-1, 3, (N, 2), generator=g),
        torch.rand(N, 4, generator=g) < 0.3,
        torch.randn(N, 2, generator=g),
        torch.rand(N, 2, generator=g) < 0.7,
    )


def bert() -> nn.Module:
    """A tiny randomly initialised BERT."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=16,
        attn_implementation="eager",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = BertModel(config, add_pooling_layer=False)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
    return network


def transformer_tokens(g: torch.Generator) -> Tokens:
    ids = tokens(g)
    return Tokens(ids, ids != 0)


def features(g: torch.Generator) -> Tensor:
    return torch.randn(N, WIDTH, generator=g)


CASES = (
    Case("cnn", lambda g: ImageCnn(WIDTH, generator=g), lambda g: video(g).values[:, 0]),
    Case("text-cnn", lambda g: TextCnn(WIDTH, words=WORDS, dimensions=5, filters=4, generator=g), tokens),
    Case("lstm", lambda g: TextLstm(WIDTH, words=WORDS, dimensions=5, hidden=4, generator=g), tokens),
    Case("gru", lambda g: TextGru(WIDTH, words=WORDS, dimensions=5, hidden=4, generator=g), tokens),
    Case(
        "kept-words",
        lambda g: TextLstm(
            WIDTH, words=WORDS, vectors=torch.randn(WORDS, 3, generator=g), train_words=False, generator=g
        ),
        tokens,
    ),
    Case("audio-gru", lambda g: AudioGru(WIDTH, bands=BANDS, hidden=4, generator=g), frames),
    Case("audio-cnn", lambda g: AudioCnn(WIDTH, bands=BANDS, channels=5, generator=g), frames),
    Case("frame-pooling", lambda g: VideoPool(WIDTH, generator=g), video),
    Case("embedding", lambda g: AttributeEmbedding(WIDTH, labels=(3, 4), tags=4, numbers=2, generator=g), columns),
    Case("bottleneck", lambda g: BottleneckAdapter(WIDTH, bottleneck=3, generator=g), features),
    Case("linear", lambda g: LinearAdapter(WIDTH, features=WIDTH, generator=g), features),
    Case("lora", lambda g: LoraTransformer(bert(), rank=2, generator=g), transformer_tokens),
)
