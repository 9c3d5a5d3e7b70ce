"""Recommenders by name. A new model takes one file and one line here."""

from __future__ import annotations

import difflib

from mmfed.config import ModelSection
from mmfed.errors import ExitCode, MmfedError
from mmfed.models.base import ItemFeatures, Recommender
from mmfed.models.dfmf import DeepFusionRecommender
from mmfed.models.gcn import GraphConvolution
from mmfed.models.mf import MatrixFactorisation
from mmfed.models.mmcnn import ConcatenationNetwork
from mmfed.models.mmfnet import AttentionFusionNetwork
from mmfed.models.mtmf import MultiTaskFactorisation
from mmfed.models.tower import TowerRecommender

RECOMMENDERS: dict[str, type[TowerRecommender]] = {
    "mmcnn": ConcatenationNetwork,
    "gcn": GraphConvolution,
    "mmfnet": AttentionFusionNetwork,
    "mf": MatrixFactorisation,
    "dfmf": DeepFusionRecommender,
    "mtmf": MultiTaskFactorisation,
}


def build_recommender(
    section: ModelSection, features: ItemFeatures, *, seed: int, ratings: bool = False
) -> Recommender:
    """A freshly initialised recommender.

    Args:
        ratings: for the mse objective: the model predicts ratings instead of ranking.

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
    return RECOMMENDERS[section.name](features, section, seed=seed, ratings=ratings)
