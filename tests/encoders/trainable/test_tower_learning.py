"""Every network learns a planted signal on one core, and nothing from shuffled labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map
from tower_cases import bert, generator

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

TRAIN, TEST, WIDTH = 96, 96, 8
Data = tuple[Any, Tensor]


def labels(g: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (TRAIN + TEST,), generator=g)


def colours(g: torch.Generator) -> Data:
    """Reddish against bluish noise."""
    target = labels(g)
    noise = torch.randint(0, 120, (len(target), 3, 16, 16), generator=g)
    noise[:, 0] += 100 * target[:, None, None]
    noise[:, 2] += 100 * (1 - target)[:, None, None]
    return noise.to(torch.uint8), target


def stripes(g: torch.Generator) -> Data:
    """Vertical against horizontal stripes of equal brightness at a random phase."""
    target = labels(g)
    phase = torch.randint(0, 4, (len(target), 1), generator=g)
    wave = 110.0 * ((torch.arange(32) + phase) % 4 < 2)
    pattern = torch.where(target[:, None, None] == 1, wave[:, None, :], wave[:, :, None])
    noise = torch.randint(0, 100, (len(target), 3, 32, 32), generator=g)
    return (noise + pattern[:, None]).to(torch.uint8), target


def bigram(g: torch.Generator) -> Data:
    """Words 2 and 3 stand together, in this order, or apart."""
    target = labels(g)
    ids = torch.randint(4, 20, (len(target), 8), generator=g)
    for row, together in enumerate(target.tolist()):
        place = int(torch.randint(0, 4, (1,), generator=g))
        ids[row, place] = 2
        ids[row, place + 1 if together else place + 3] = 3
    return ids, target


def order(g: torch.Generator) -> Data:
    """Word 2 before word 3, or behind it."""
    target = labels(g)
    ids = torch.randint(4, 20, (len(target), 6), generator=g)
    for row, first in enumerate(target.tolist()):
        early, late = sorted(torch.randperm(6, generator=g)[:2].tolist())
        ids[row, early], ids[row, late] = (2, 3) if first else (3, 2)
    return ids, target


def tones(g: torch.Generator) -> Data:
    """A rising or falling tone: the same bands, in the other order."""
    target = labels(g)
    lengths = torch.randint(12, 25, (len(target),), generator=g)
    steps, bands = torch.arange(24), torch.arange(8)
    place = 7.0 * steps[None, :] / (lengths[:, None] - 1)
    place = torch.where(target[:, None] == 1, place, 7.0 - place)
    values = torch.exp(-((bands - place[:, :, None]) ** 2)) + 0.2 * torch.randn(len(target), 24, 8, generator=g)
    return Sequences(values, lengths), target


def chirps(g: torch.Generator) -> Data:
    """The same with a tone that goes over all bands again and again, so that short filters see it as well."""
    target = labels(g)
    lengths = torch.randint(16, 25, (len(target),), generator=g)
    place = (torch.arange(24)[None, :] + torch.randint(0, 8, (len(target), 1), generator=g)) % 8
    place = torch.where(target[:, None] == 1, place, 7 - place)
    values = functional.one_hot(place, 8) + 0.2 * torch.randn(len(target), 24, 8, generator=g)
    return Sequences(values, lengths), target


def flashes(g: torch.Generator) -> Data:
    """One of four frames is reddish, or bluish."""
    target = labels(g)
    clips = torch.randint(0, 100, (len(target), 4, 3, 16, 16), generator=g)
    place = torch.randint(0, 3, (len(target),), generator=g)
    clips[torch.arange(len(target)), place, torch.where(target == 1, 0, 2)] += 150
    return Sequences(clips.to(torch.uint8), torch.full((len(target),), 3)), target


def category(g: torch.Generator) -> Data:
    """Some of twelve categories, where the category is known."""
    codes = torch.randint(0, 12, (TRAIN + TEST, 2), generator=g)
    odd = torch.tensor([1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0])
    target = odd[codes[:, 0]]
    n = len(target)
    return AttributeColumns(codes, torch.zeros(n, 0), torch.randn(n, 1, generator=g), torch.ones(n, 1).bool()), target


def directions(g: torch.Generator) -> Data:
    values = torch.randn(TRAIN + TEST, WIDTH, generator=g)
    return values, (values[:, 0] > 0).long()


def circles(g: torch.Generator) -> Data:
    """Inside or outside: no linear map tells them apart."""
    values = torch.randn(TRAIN + TEST, WIDTH, generator=g) * 0.3
    target = labels(g)
    angle = torch.rand(len(target), generator=g) * 6.2832
    radius = torch.where(target == 1, 3.0, 0.7)
    values[:, 0], values[:, 1] = radius * angle.cos(), radius * angle.sin()
    return values, target


def marked(g: torch.Generator) -> Data:
    """Texts with word 2 or word 3 among others, for a frozen transformer."""
    target = labels(g)
    ids = torch.randint(4, 12, (len(target), 6), generator=g)
    ids[torch.arange(len(target)), torch.randint(0, 6, (len(target),), generator=g)] = 2 + target
    return Tokens(ids, torch.ones_like(ids).bool()), target


TASKS: dict[str, tuple[Callable[[torch.Generator], Tower], Callable[[torch.Generator], Data], int]] = {
    "cnn-colours": (lambda g: ImageCnn(WIDTH, generator=g), colours, 8),
    "cnn-stripes": (lambda g: ImageCnn(WIDTH, generator=g), stripes, 12),
    "text-cnn": (lambda g: TextCnn(WIDTH, words=20, dimensions=16, filters=16, generator=g), bigram, 40),
    "lstm": (lambda g: TextLstm(WIDTH, words=20, dimensions=16, hidden=16, generator=g), order, 60),
    "gru": (lambda g: TextGru(WIDTH, words=20, dimensions=16, hidden=16, generator=g), order, 60),
    "audio-gru": (lambda g: AudioGru(WIDTH, bands=8, hidden=16, stride=2, generator=g), tones, 40),
    "audio-cnn": (lambda g: AudioCnn(WIDTH, bands=8, channels=16, generator=g), chirps, 25),
    "frame-pooling": (lambda g: VideoPool(WIDTH, generator=g), flashes, 12),
    "embedding": (lambda g: AttributeEmbedding(WIDTH, labels=(12, 12), numbers=1, generator=g), category, 40),
    "bottleneck": (lambda g: BottleneckAdapter(WIDTH, bottleneck=16, generator=g), circles, 100),
    "linear": (lambda g: LinearAdapter(WIDTH, features=WIDTH, generator=g), directions, 60),
    "lora": (lambda g: LoraTransformer(bert(), rank=4, generator=g), marked, 80),
}


def held_out_accuracy(name: str, *, shuffled: bool, train_tower: bool = True) -> float:
    """Share of the test items told right by tower and linear head, both trained on the training items."""
    build, data, steps = TASKS[name]
    g = generator(11)
    inputs, target = data(g)
    if shuffled:
        target = target[torch.randperm(len(target), generator=g)]
    tower = build(g)
    head = nn.Linear(tower.width, 2)
    with torch.no_grad():
        head.weight.normal_(0, 0.3, generator=g)
        head.bias.zero_()
    trained = [*tower.parameters(), *head.parameters()] if train_tower else [*head.parameters()]
    optimiser = torch.optim.Adam(trained, lr=0.01)
    first, second = (tree_map(lambda t, s=s: t[s], inputs) for s in (slice(0, TRAIN), slice(TRAIN, None)))
    for _ in range(steps):
        optimiser.zero_grad()
        functional.cross_entropy(head(tower(first)), target[:TRAIN]).backward()
        optimiser.step()
    with torch.no_grad():
        return float((head(tower(second)).argmax(1) == target[TRAIN:]).float().mean())


@pytest.mark.parametrize("name", TASKS)
def test_learns_the_planted_signal(name: str) -> None:
    assert held_out_accuracy(name, shuffled=False) >= 0.9


@pytest.mark.parametrize("name", TASKS)
def test_learns_nothing_from_shuffled_labels(name: str) -> None:
    """Of 96 coin flips, 70 % right has probability below 1e-4."""
    assert held_out_accuracy(name, shuffled=True) < 0.7


@pytest.mark.parametrize("name", ["bottleneck", "lora"])
def test_a_linear_head_alone_does_not_do_what_the_adapter_does(name: str) -> None:
    assert held_out_accuracy(name, shuffled=False, train_tower=False) < 0.8
