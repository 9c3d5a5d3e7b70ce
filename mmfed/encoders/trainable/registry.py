"""Trainable encoders by name. A new one takes one file and one line here."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mmfed.encoders.trainable.adapter import BottleneckAdapter, LinearAdapter
from mmfed.encoders.trainable.attribute_embed import AttributeEmbedding
from mmfed.encoders.trainable.audio_rnn import AudioCnn, AudioGru
from mmfed.encoders.trainable.image_cnn import ImageCnn
from mmfed.encoders.trainable.lora import LoraTransformer
from mmfed.encoders.trainable.lstm import TextGru, TextLstm
from mmfed.encoders.trainable.text_cnn import TextCnn
from mmfed.encoders.trainable.tower import Tower
from mmfed.encoders.trainable.video_pool import VideoPool
from mmfed.errors import ExitCode, MmfedError

Training = Literal["adapter", "full"]
MODALITIES = ("image", "text", "attributes", "audio", "video")


@dataclass(frozen=True)
class Network:
    """What a name stands for.

    Attributes:
        kind: the tower's class.
        training: "full" learns from raw inputs, "adapter" changes what a frozen backbone gives.
        modalities: where it fits; the first "full" network of a modality is its default.
    """

    kind: type[Tower]
    training: Training
    modalities: tuple[str, ...]


NETWORKS: dict[str, Network] = {
    "cnn": Network(ImageCnn, "full", ("image",)),
    "text-cnn": Network(TextCnn, "full", ("text",)),
    "lstm": Network(TextLstm, "full", ("text",)),
    "gru": Network(TextGru, "full", ("text",)),
    "audio-gru": Network(AudioGru, "full", ("audio",)),
    "audio-cnn": Network(AudioCnn, "full", ("audio",)),
    "frame-pooling": Network(VideoPool, "full", ("video",)),
    "embedding": Network(AttributeEmbedding, "full", ("attributes",)),
    "bottleneck": Network(BottleneckAdapter, "adapter", MODALITIES),
    "linear": Network(LinearAdapter, "adapter", MODALITIES),
    "lora": Network(LoraTransformer, "adapter", ("text",)),
}


def network_names(modality: str, training: Training) -> tuple[str, ...]:
    """Names that fit, the default first."""
    return tuple(name for name, one in NETWORKS.items() if one.training == training and modality in one.modalities)


def build_tower(name: str, *, modality: str, training: Training, generator: torch.Generator, **settings: Any) -> Tower:
    """A freshly initialised tower; the same generator state gives the same weights.

    Args:
        name: of the network; "default" takes the first that fits.
        modality: whose inputs it reads.
        training: "full" or "adapter".
        generator: of the initial weights.
        settings: of the network's class (``width``, ``words``, ``bands``, ...).

    Raises:
        MmfedError: no network of that name fits the modality; the fix names the nearest one that does.
    """
    kind: Any = NETWORKS[network_name(name, modality=modality, training=training)].kind
    return kind(generator=generator, **settings)


def network_name(name: str, *, modality: str, training: Training) -> str:
    """The network that a name in the configuration stands for; "default" is the first that fits.

    Raises:
        MmfedError: as ``build_tower``.
    """
    fitting = network_names(modality, training)
    if name == "default" and fitting:
        name = fitting[0]
    if name not in fitting:
        close = difflib.get_close_matches(name, fitting, n=1, cutoff=0.3)
        others = (
            f"choose one of: {', '.join(fitting)}." if fitting else f"choose a modality of: {', '.join(MODALITIES)}."
        )
        raise MmfedError(
            ExitCode.CONFIG,
            f"features.{modality}.network = {name!r}: no such network for {modality} with training = {training!r}.",
            f"did you mean {close[0]!r}? {others}" if close else others,
        )
    return name
