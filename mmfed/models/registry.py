"""Recommenders by name. A new model takes one file and one line here."""

from __future__ import annotations

import difflib
from importlib import import_module

from mmfed.config import ModelSection
from mmfed.errors import ExitCode, MmfedError
from mmfed.models.base import ItemFeatures, Recommender

# Name: "module:class". The module is imported when the recommender is built, so that a line is all there is to add.
RECOMMENDERS: dict[str, str] = {
    "mmcnn": "mmfed.models.mmcnn:ConcatenationNetwork",
    "gcn": "mmfed.models.gcn:GraphConvolution",
    "mmfnet": "mmfed.models.mmfnet:AttentionFusionNetwork",
    "mf": "mmfed.models.mf:MatrixFactorisation",
    "dfmf": "mmfed.models.dfmf:DeepFusionRecommender",
    "mtmf": "mmfed.models.mtmf:MultiTaskFactorisation",
}


def build_recommender(
    section: ModelSection, features: ItemFeatures, *, seed: int, ratings: bool = False, answers: int = 0
) -> Recommender:
    """A freshly initialised recommender.

    Args:
        ratings: for the mse objective: the model predicts ratings instead of ranking.
        answers: what people may say about themselves, the answers of all attributes together.

    Raises:
        MmfedError: unknown name, or neither content nor item ids to tell items apart.
    """
    if section.name not in RECOMMENDERS:
        near = difflib.get_close_matches(section.name, RECOMMENDERS, n=1)
        known = ", ".join(RECOMMENDERS)
        raise MmfedError(
            ExitCode.CONFIG,
            f"model.name = {section.name!r}: no such recommender.",
            (f"did you mean {near[0]!r}? " if near else "") + f"choose one of: {known}.",
        )
    if not features.names and not section.item_ids:
        raise MmfedError(
            ExitCode.CONFIG,
            "model.item_ids = false, and the catalogue has no usable modality: items cannot be told apart.",
            "set model.item_ids = true or give the shop pictures, texts or attributes.",
        )
    module, _, kind = RECOMMENDERS[section.name].partition(":")
    return getattr(import_module(module), kind)(features, section, seed=seed, ratings=ratings, answers=answers)
