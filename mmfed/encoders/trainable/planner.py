"""From a catalogue and the configuration to the plans of its trained encoders."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmfed.config import EncoderSection, TextSection
from mmfed.data.schema import Catalogue
from mmfed.encoders.encoder import text_inputs
from mmfed.encoders.reduce import Reduction
from mmfed.encoders.trainable.plan import Projection, TowerPlan
from mmfed.encoders.trainable.registry import network_name
from mmfed.errors import ExitCode, MmfedError
from mmfed.rng import torch_generator

FULL_WIDTH = 64  # of a network's vectors where features.<modality>.dimensions is none
LORA = "lora"

Faults = Callable[[dict[int, str]], None]


def full_plan(catalogue: Catalogue, modality: str, settings: EncoderSection, faults: Faults) -> TowerPlan | None:
    """The plan of a network that learns from raw inputs; None where no item has any.

    Args:
        faults: told which rows could not be read, and why.

    Raises:
        MmfedError: the network is unknown, a package is missing, word vectors are unusable, or the shop delivers
            numbers and no raw inputs.
    """
    network = network_name(settings.network, modality=modality, training="full")
    width = settings.dimensions or FULL_WIDTH
    plan = replace(_PLANS[modality](catalogue, settings, faults), network=network)
    if plan.present is None or not plan.present.any():
        if modality in catalogue.features:
            raise MmfedError(
                ExitCode.FEATURES,
                f"features.{modality}.training = 'full': the shop delivers {modality} numbers and nothing to learn "
                "them from.",
                f"set features.{modality}.training = 'adapter', which changes delivered numbers, or 'frozen'.",
            )
        return None
    return replace(plan, width=width, settings={**plan.settings, "width": width})


def adapter_plan(modality: str, settings: EncoderSection, width: int) -> TowerPlan:
    """The plan of an adapter behind ``width`` columns of frozen features.

    Raises:
        MmfedError: the network is unknown.
    """
    if settings.scope == "private":
        return TowerPlan(modality, "adapter", width, "linear", "private")
    network = network_name(settings.network, modality=modality, training="adapter")
    more: dict[str, Any] = {"features": width} if network == "linear" else {}
    return TowerPlan(modality, "adapter", width, network, settings={"width": width, **more})


def lora_plan(
    catalogue: Catalogue, folder: Path, sha256: str, reduction: Reduction | None, width: int, faults: Faults
) -> TowerPlan:
    """The plan of a transformer with LoRA, reduced like the frozen features, so that it begins as them.

    Args:
        folder: of the model.
        sha256: of the model's files.
        reduction: of the frozen features; None where they are kept as they are.
        width: of the frozen features.
    """
    from mmfed.encoders.trainable.inputs.subwords import subword_ids

    raw = subword_ids(_texts(catalogue), folder)
    faults(dict(raw.faults))
    projection = None
    if reduction is not None:
        projection = Projection(
            torch.from_numpy(reduction.mean).float(), torch.from_numpy(reduction.directions.copy()).float()
        )
    return TowerPlan(
        "text",
        "adapter",
        width,
        LORA,
        inputs=raw.inputs,
        present=raw.present,
        settings={"network": lambda: _own_network(folder)},
        projection=projection,
        made_with=sha256,
    )


def _image(catalogue: Catalogue, settings: EncoderSection, faults: Faults) -> TowerPlan:
    del settings
    from mmfed.encoders.trainable.inputs.pixels import picture_pixels

    raw = picture_pixels(catalogue.images)
    faults(dict(raw.faults))
    return TowerPlan("image", "full", 0, inputs=raw.inputs, present=raw.present)


def _text(catalogue: Catalogue, settings: EncoderSection, faults: Faults) -> TowerPlan:
    from mmfed.encoders.trainable.inputs.tokens import catalogue_vocabulary, token_ids

    texts = _texts(catalogue)
    vocabulary = catalogue_vocabulary(texts)
    raw = token_ids(texts, vocabulary)
    faults(dict(raw.faults))
    more: dict[str, Any] = {"words": vocabulary.size}
    if isinstance(settings, TextSection):
        more["train_words"] = settings.train_words
        if settings.vectors is not None:
            from mmfed.encoders.trainable.inputs.word_vectors import word_table

            generator = torch_generator(0, "word vectors")  # every party draws those of missing words alike
            more["vectors"] = word_table(vocabulary, settings.vectors, generator=generator).values
    return TowerPlan(
        "text", "full", 0, inputs=raw.inputs, present=raw.present, settings=more, made_with=vocabulary.digest
    )


def _attributes(catalogue: Catalogue, settings: EncoderSection, faults: Faults) -> TowerPlan:
    del settings, faults
    from mmfed.encoders.trainable.inputs.columns import attribute_columns

    raw, sizes = attribute_columns(catalogue)
    more = {"labels": sizes.labels, "tags": sizes.tags, "numbers": sizes.numbers}
    return TowerPlan("attributes", "full", 0, inputs=raw.inputs, present=raw.present, settings=more)


def _audio(catalogue: Catalogue, settings: EncoderSection, faults: Faults) -> TowerPlan:
    del settings
    from mmfed.encoders.mel import BANDS
    from mmfed.encoders.trainable.inputs.mel import recording_frames

    raw = recording_frames(catalogue.audios or (None,) * catalogue.size)
    faults(dict(raw.faults))
    return TowerPlan("audio", "full", 0, inputs=raw.inputs, present=raw.present, settings={"bands": BANDS})


def _video(catalogue: Catalogue, settings: EncoderSection, faults: Faults) -> TowerPlan:
    del settings
    from mmfed.encoders.trainable.inputs.clips import clip_frames

    raw = clip_frames(catalogue.videos or (None,) * catalogue.size)
    faults(dict(raw.faults))
    return TowerPlan("video", "full", 0, inputs=raw.inputs, present=raw.present)


_PLANS: dict[str, Callable[[Catalogue, EncoderSection, Faults], TowerPlan]] = {
    "image": _image,
    "text": _text,
    "attributes": _attributes,
    "audio": _audio,
    "video": _video,
}


def _texts(catalogue: Catalogue) -> tuple[str | None, ...]:
    """Title and text as one string, as the frozen encoder reads them."""
    return text_inputs(catalogue.titles, catalogue.texts, catalogue.item_ids).inputs


def _own_network(folder: Path) -> nn.Module:
    """A transformer to build a tower around; all share the frozen weights of one."""
    held = _frozen(folder)
    return copy.deepcopy(held, {id(buffer): buffer for buffer in held.buffers()})


@lru_cache(maxsize=1)
def _frozen(folder: Path) -> nn.Module:
    from mmfed.encoders.trainable.lora import freeze, load_frozen

    network = load_frozen(folder)
    freeze(network)
    return network
