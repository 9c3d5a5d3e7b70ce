"""Recommenders by name. A new model takes one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from mmfed.config import ModelSection
from mmfed.errors import ExitCode, MmfedError
from mmfed.models.base import ItemFeatures, Recommender
from mmfed.models.dfmf import DeepFusionRecommender


def _dfmf(section: ModelSection, features: ItemFeatures, seed: int) -> Recommender:
    return DeepFusionRecommender(
        features,
        dimensions=section.dimensions,
        fusion=section.fusion,
        item_ids=section.item_ids,
        decays=section.decays,
        history=section.history,
        content_scale=section.content_scale,
        bias_scale=section.bias_scale,
        private_user_vector=section.private_user_vector,
        seed=seed,
    )


RECOMMENDERS: dict[str, Callable[[ModelSection, ItemFeatures, int], Recommender]] = {"dfmf": _dfmf}


def build_recommender(section: ModelSection, features: ItemFeatures, *, seed: int) -> Recommender:
    """A freshly initialised recommender.

    Raises:
        MmfedError: unknown name, or neither content nor item ids to tell items apart.
    """
    if section.name not in RECOMMENDERS:
        known = ", ".join(sorted(RECOMMENDERS))
        raise MmfedError(
            ExitCode.CONFIG, f"model.name = {section.name!r}: no such recommender.", f"choose one of: {known}."
        )
    if not features.names and not section.item_ids:
        raise MmfedError(
            ExitCode.CONFIG,
            "model.item_ids = false, and the catalogue has no usable modality: items cannot be told apart.",
            "set model.item_ids = true or give the shop pictures, texts or attributes.",
        )
    return RECOMMENDERS[section.name](section, features, seed)
