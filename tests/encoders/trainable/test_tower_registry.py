"""Networks by name, and the faults that name the nearest one."""

from __future__ import annotations

import pytest
import torch
from tower_cases import CASES, features, generator

from mmfed.encoders.trainable.adapter import BottleneckAdapter
from mmfed.encoders.trainable.image_cnn import ImageCnn
from mmfed.encoders.trainable.registry import MODALITIES, NETWORKS, build_tower, network_names
from mmfed.errors import ExitCode, MmfedError

SETTINGS = {
    "cnn": {"width": 8},
    "text-cnn": {"width": 8, "words": 20},
    "lstm": {"width": 8, "words": 20},
    "gru": {"width": 8, "words": 20},
    "audio-gru": {"width": 8, "bands": 64},
    "audio-cnn": {"width": 8, "bands": 64},
    "frame-pooling": {"width": 8},
    "embedding": {"width": 8, "labels": (3,)},
    "bottleneck": {"width": 8},
    "linear": {"width": 8, "features": 12},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_builds_each_by_name(name: str) -> None:
    network = NETWORKS[name]
    for modality in network.modalities:
        tower = build_tower(name, modality=modality, training=network.training, generator=generator(), **SETTINGS[name])
        assert type(tower) is network.kind
        assert tower.width == 8


def test_every_network_runs_through_the_contract_suite() -> None:
    assert set(NETWORKS) <= {case.name for case in CASES}


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_modality_has_a_default_of_both_kinds(modality: str) -> None:
    assert network_names(modality, "full")
    assert "bottleneck" in network_names(modality, "adapter")
    built = build_tower("default", modality=modality, training="adapter", width=4, generator=generator())
    assert isinstance(built, BottleneckAdapter)


def test_unknown_names_name_the_nearest() -> None:
    with pytest.raises(MmfedError) as error:
        build_tower("textcnn", modality="text", training="full", generator=generator())
    assert error.value.code is ExitCode.CONFIG
    assert "features.text.network = 'textcnn'" in error.value.message
    assert "did you mean 'text-cnn'?" in error.value.fix


@pytest.mark.parametrize(
    ("name", "modality", "training"),
    [("cnn", "text", "full"), ("lora", "image", "adapter"), ("cnn", "image", "adapter"), ("", "image", "full"),
     ("default", "smell", "full")],
)  # fmt: skip
def test_networks_of_another_modality_are_refused(name: str, modality: str, training) -> None:
    with pytest.raises(MmfedError) as error:
        build_tower(name, modality=modality, training=training, generator=generator())
    assert "choose" in error.value.fix


def test_the_image_network_has_the_size_it_says() -> None:
    tower = ImageCnn(64, generator=generator())
    assert 40_000 < sum(parameter.numel() for parameter in tower.parameters()) < 55_000


def test_the_bottleneck_starts_at_the_frozen_features() -> None:
    inputs = features(generator(1))
    assert torch.equal(BottleneckAdapter(6, generator=generator())(inputs), inputs)
