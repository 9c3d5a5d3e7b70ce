"""Everything a node computes with: the public catalogue as features, the node's own interactions, the model.

Loaded once per process and shared by whatever runs in it (in a simulation the coordinator, all nodes and the evaluation
see the same arrays).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmfed.config import Config
from mmfed.data.load import load_shop
from mmfed.data.schema import Interactions, Shop, Split
from mmfed.data.split import split_shop
from mmfed.encoders.store import FeatureSet, catalogue_features
from mmfed.models.base import ItemFeatures, Recommender, item_features
from mmfed.models.registry import build_recommender
from mmfed.rng import user_key
from mmfed.training.batch import Histories
from mmfed.types import IntArray

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Workspace:
    """A shop made ready for training.

    Attributes:
        shop: catalogue and interactions after cleaning.
        split: train, validation and test.
        features: frozen features of the catalogue, hash-pinned.
    """

    config: Config
    shop: Shop
    split: Split
    features: FeatureSet

    @cached_property
    def item_features(self) -> ItemFeatures:
        """The catalogue as tensors."""
        modalities = {name: (one.values, one.present) for name, one in self.features.modalities.items()}
        return item_features(modalities, self.shop.catalogue.size)

    @cached_property
    def user_keys(self) -> IntArray:
        """[users] uint64 key of every user."""
        return np.array([user_key(str(user)) for user in self.shop.interactions.user_ids], dtype=np.uint64)

    @cached_property
    def histories(self) -> Histories:
        """Training histories of all users, in user order."""
        return histories_of(self.split.train, self.user_keys)

    def new_model(self) -> Recommender:
        """A freshly initialised model; the same on every node of a run."""
        return build_recommender(self.config.model, self.item_features, seed=self.config.run.seed)


def histories_of(interactions: Interactions, keys: IntArray) -> Histories:
    """Interactions as sequences named by user key."""
    return Histories(keys, np.asarray(interactions.indptr, dtype=np.int64), interactions.items)


def load_workspace(config: Config, *, progress: Progress | None = None) -> Workspace:
    """Load, split and encode the shop of a configuration, or return the one this process holds already.

    Raises:
        MmfedError: whatever is wrong with the shop, the split or the encoders.
    """
    key = (config.data, config.features, config.model, config.run.seed)
    held = _HELD.get(key)
    if held is None:
        shop = load_shop(config.data, seed=config.run.seed)
        features = catalogue_features(shop.catalogue, config.features, progress=progress)
        held = Workspace(config, shop, split_shop(shop, config.data.split), features)
        _HELD.clear()
        _HELD[key] = held
    return held


_HELD: dict[tuple[object, ...], Workspace] = {}
