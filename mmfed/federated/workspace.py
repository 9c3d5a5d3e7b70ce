"""Everything a node computes with: the public catalogue as features, the node's own interactions, the model.

Loaded once per process and shared by whatever runs in it (in a simulation the coordinator, all nodes and the evaluation
see the same arrays).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmfed.config import Config, DataSection, FeaturesSection
from mmfed.data.labels import public_labels
from mmfed.data.load import load_shop
from mmfed.data.schema import Features, Interactions, Shop, Split
from mmfed.data.split import no_split, split_shop
from mmfed.encoders.store import FeatureSet, catalogue_features
from mmfed.encoders.trainable.plan import TowerPlan
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
        features: frozen features and raw inputs of the catalogue, hash-pinned.
    """

    config: Config
    shop: Shop
    split: Split
    features: FeatureSet

    @cached_property
    def item_features(self) -> ItemFeatures:
        """The catalogue as tensors."""
        items, plans = self.shop.catalogue.size, self.features.plans
        modalities = {
            name: (one.values, one.present)
            for name in dict.fromkeys(self.config.features.modalities)
            if (one := self.features.modalities.get(name) or _without_frozen(plans.get(name), items)) is not None
        }
        return item_features(modalities, items, public_labels(self.shop.catalogue), plans)

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
        ratings = self.config.training.objective == "mse"
        return build_recommender(self.config.model, self.item_features, seed=self.config.run.seed, ratings=ratings)


def _without_frozen(plan: TowerPlan | None, items: int) -> Features | None:
    """What a modality that is trained from raw inputs has in place of frozen features: presence, and no column."""
    if plan is None or plan.present is None:
        return None
    return Features(np.zeros((items, 0), dtype=np.float32), plan.present)


def histories_of(interactions: Interactions, keys: IntArray) -> Histories:
    """Interactions as sequences named by user key."""
    indptr = np.asarray(interactions.indptr, dtype=np.int64)
    return Histories(keys, indptr, interactions.items, interactions.values, interactions.actions)


def load_workspace(
    config: Config, *, progress: Progress | None = None, interactions_optional: bool = False
) -> Workspace:
    """Load, split and encode the shop of a configuration, or return what this process holds already.

    Runs that differ in other settings than data and features share the arrays.

    Args:
        interactions_optional: for a coordinator, which may hold the public catalogue only; see ``load_shop``.

    Raises:
        MmfedError: whatever is wrong with the shop, the split or the encoders.
    """
    held = _WORKSPACES.get(config)
    if held is not None:
        return held
    sources = (config.data, config.features)
    if sources not in _SHOPS:
        shop = load_shop(config.data, seed=config.data.seed, interactions_optional=interactions_optional)
        split = split_shop(shop, config.data.split) if len(shop.interactions) else no_split(shop.interactions)
        features = catalogue_features(shop.catalogue, config.features, progress=progress)
        _SHOPS.clear()
        _WORKSPACES.clear()
        _SHOPS[sources] = (shop, split, features)
    if len(_WORKSPACES) >= _MOST_WORKSPACES:
        _WORKSPACES.clear()
    _WORKSPACES[config] = Workspace(config, *_SHOPS[sources])
    return _WORKSPACES[config]


_MOST_WORKSPACES = 8
_SHOPS: dict[tuple[DataSection, FeaturesSection], tuple[Shop, Split, FeatureSet]] = {}
_WORKSPACES: dict[Config, Workspace] = {}
