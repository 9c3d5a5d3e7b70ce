"""Catalogues of the tiny models' size whose encoders are trained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from tiny_models import ITEMS, WIDTHS

from mmfed.encoders.trainable.attribute_embed import AttributeColumns
from mmfed.encoders.trainable.plan import TowerPlan
from mmfed.models.base import ItemFeatures, item_features

FULL_WIDTH = 6


def catalogue_of(plans: Mapping[str, TowerPlan], *, items: int = ITEMS, seed: int = 0) -> ItemFeatures:
    """Random frozen features, none for a modality that is trained from raw inputs."""
    generator = np.random.default_rng(seed)
    arrays = {}
    for name, width in WIDTHS.items():
        full = name in plans and plans[name].training == "full"
        values = generator.normal(size=(items, 0 if full else width))
        arrays[name] = values, generator.random(items) >= 0.2
    labels = {"category": generator.random((items, 4)) < 0.4, "price_band": np.eye(3, dtype=bool)[np.arange(items) % 3]}
    return item_features(arrays, items, labels, plans)


def image_plan(items: int = ITEMS) -> TowerPlan:
    """Pixels of pictures of 8 x 8; some items have none."""
    pixels = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (items, 3, 8, 8)).astype(np.uint8))
    settings = {"width": FULL_WIDTH}
    return TowerPlan("image", "full", FULL_WIDTH, inputs=pixels, present=some(items, 2), settings=settings)


def text_plan(network: str = "default", items: int = ITEMS) -> TowerPlan:
    """Texts of one to six of twelve words; some items have none."""
    generator = np.random.default_rng(3)
    ids = generator.integers(1, 12, (items, 6)) * (np.arange(6) < generator.integers(1, 7, (items, 1)))
    present = some(items, 4)
    tokens = torch.from_numpy(ids * present[:, None])
    settings = {"width": FULL_WIDTH, "words": 12, "dimensions": 5}
    return TowerPlan("text", "full", FULL_WIDTH, network, inputs=tokens, present=present, settings=settings)


def attributes_plan(items: int = ITEMS) -> TowerPlan:
    """A column of labels, three tags and a number, each with gaps."""
    generator = np.random.default_rng(5)
    columns = AttributeColumns(
        torch.from_numpy(generator.integers(-1, 4, (items, 1))),
        torch.from_numpy(generator.random((items, 3)) < 0.4),
        torch.from_numpy(generator.normal(size=(items, 1)).astype(np.float32)),
        torch.from_numpy(generator.random((items, 1)) < 0.8),
    )
    settings = {"width": FULL_WIDTH, "labels": (4,), "tags": 3, "numbers": 1}
    return TowerPlan("attributes", "full", FULL_WIDTH, inputs=columns, present=some(items, 6), settings=settings)


def adapter_of(modality: str, *, scope: str = "shared") -> TowerPlan:
    """A bottleneck, or a private linear adapter, behind the tiny frozen features."""
    width = WIDTHS[modality]
    if scope == "private":
        return TowerPlan(modality, "adapter", width, "linear", "private")
    return TowerPlan(modality, "adapter", width, "bottleneck", settings={"width": width, "bottleneck": 3})


def some(items: int, seed: int) -> np.ndarray:
    """[items] bool, most of them."""
    return np.random.default_rng(seed).random(items) >= 0.2


PLANS: dict[str, dict[str, TowerPlan]] = {
    "full image": {"image": image_plan()},
    "full text": {"text": text_plan()},
    "full attributes": {"attributes": attributes_plan()},
    "adapter": {"image": adapter_of("image")},
    "private adapter": {"image": adapter_of("image", scope="private")},
    "all at once": {
        "image": adapter_of("image", scope="private"),
        "text": text_plan("gru"),
        "attributes": adapter_of("attributes"),
    },
    "two private adapters": {name: adapter_of(name, scope="private") for name in ("image", "attributes")},
}
