"""Everything a node computes with: the public catalogue as features, the node's own interactions, the model.

Loaded once per process and shared by whatever runs in it (in a simulation the coordinator, all nodes and the evaluation
see the same arrays).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mmfed.config import Config, DataSection, FeaturesSection
from mmfed.data.labels import public_labels
from mmfed.data.load import load_shop, load_split
from mmfed.data.schema import Features, Interactions, Shop, Split
from mmfed.data.split import held_out
from mmfed.data.stored import StoredIds
from mmfed.encoders.cache import default_cache
from mmfed.encoders.own import OwnFeatures, own_features
from mmfed.encoders.store import FeatureSet, catalogue_features
from mmfed.encoders.trainable.plan import TowerPlan
from mmfed.errors import ExitCode, MmfedError
from mmfed.models.base import ItemFeatures, Recommender, item_features
from mmfed.models.own_events import Timelines, timelines
from mmfed.models.registry import build_recommender
from mmfed.privacy.vault import Vault
from mmfed.rng import derive, hash_uniform, user_key
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
        own: people's own content, encoded; None where nobody has any.
    """

    config: Config
    shop: Shop
    split: Split
    features: FeatureSet
    own: OwnFeatures | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What cleaning and encoding changed, one line each."""
        own = () if self.own is None else self.own.notes
        return (*self.shop.notes, *self.features.notes, *own)

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
        ids = self.shop.interactions.user_ids
        if isinstance(ids, StoredIds):
            return np.array(ids.keys, dtype=np.uint64)
        return np.array([user_key(str(user)) for user in ids], dtype=np.uint64)

    def evaluated(self, targets: Interactions) -> IntArray | None:
        """Users whose figures are taken: of those with targets, ``evaluation.users`` by a seeded hash; None: all."""
        most, users = self.config.evaluation.users, np.flatnonzero(targets.lengths)
        if most is None or len(users) <= most:
            return None
        key, one = derive(self.config.run.seed, "evaluated users"), np.zeros(1, dtype=np.int64)
        drawn = hash_uniform(key, self.user_keys[users], one)[:, 0]
        return np.sort(users[np.argpartition(drawn, most)[:most]])

    @cached_property
    def before_test(self) -> Interactions:
        """What every user of the test figures did before; the others have no rows where not all are evaluated."""
        return self.split.before_test_of(self.evaluated(self.split.test))

    @cached_property
    def train_users(self) -> IntArray:
        """[items] distinct training users of each item."""
        return self.split.train.users_per_item()

    @cached_property
    def histories(self) -> Histories:
        """Training histories of all users, in user order; own content among them, up to the last interaction."""
        train = self.split.train
        if self.own is None:
            return histories_of(train, self.user_keys, self.people)
        ends = train.indptr[1:]
        last = np.where(train.lengths > 0, train.times[np.maximum(ends, 1) - 1] if len(train) else 0, NEVER)
        return histories_of(self.with_own(train, self.own, last), self.user_keys, self.people)

    @cached_property
    def people(self) -> IntArray | None:
        """[users, attributes] what people say about themselves, as ``HistoryBatch.person``; None: nobody was asked."""
        return None if self.shop.people is None else self.shop.people.rows

    def timelines(self, history: Interactions, *later: Interactions) -> Interactions | Timelines:
        """A history with the own content of its users before the first interaction of ``later`` (everything without).

        Returns:
            The history itself where nobody has own content that the model reads.
        """
        if self.own is None:
            return history
        until = np.full(history.user_count, NOW + 1)
        for part in later:
            users, first = np.unique(part.user_of_row(), return_index=True)
            until[users] = np.minimum(until[users], part.times[first])
        return self.with_own(history, self.own, until)

    def with_own(
        self, history: Interactions, own: OwnFeatures | None, until: IntArray | None = None
    ) -> Interactions | Timelines:
        """A history with own content of its users up to ``until`` [users]; itself where the model reads none of it."""
        reads = () if own is None else tuple(set(self._reads) & set(own.modalities))
        if own is None or not reads:
            return history
        return timelines(history, own, np.full(history.user_count, NOW + 1) if until is None else until, reads)

    @cached_property
    def _reads(self) -> tuple[str, ...]:
        """Modalities that the model reads in a history."""
        return self.new_model().history_modalities()

    def new_model(self) -> Recommender:
        """A freshly initialised model; the same on every node of a run."""
        config, answers = self.config, sum(one.size for one in self.config.data.people)
        ratings = config.training.objective == "mse"
        return build_recommender(
            config.model, self.item_features, seed=config.run.seed, ratings=ratings, answers=answers
        )


def _without_frozen(plan: TowerPlan | None, items: int) -> Features | None:
    """What a modality that is trained from raw inputs has in place of frozen features: presence, and no column."""
    if plan is None or plan.present is None:
        return None
    return Features(np.zeros((items, 0), dtype=np.float32), plan.present)


def histories_of(source: Interactions | Timelines, keys: IntArray, people: IntArray | None = None) -> Histories:
    """Interactions, or they and own content, as sequences named by user key.

    Args:
        people: [users, attributes] what people say about themselves.
    """
    indptr = np.asarray(source.indptr, dtype=np.int64)
    own, features = (source.rows, source.features) if isinstance(source, Timelines) else (None, None)
    return Histories(keys, indptr, source.items, source.values, source.actions, own, features, people)


def load_workspace(
    config: Config,
    *,
    progress: Progress | None = None,
    interactions_optional: bool = False,
    own_vault: Vault | None = None,
) -> Workspace:
    """Load, split and encode the shop of a configuration, or return what this process holds already.

    Runs that differ in other settings than data and features share the arrays.

    Args:
        interactions_optional: for a coordinator, which may hold the public catalogue only; see ``load_shop``.
        own_vault: of a real device, where people's encoded content is kept; None keeps it beside the catalogue's.

    Raises:
        MmfedError: whatever is wrong with the shop, the split or the encoders.
    """
    held = _WORKSPACES.get(config)
    if held is not None:
        return held
    sources = (config.data, config.features)
    if sources not in _SHOPS:
        populations = (config.features.cache or default_cache()) / "populations"
        shop = load_shop(
            config.data, seed=config.data.seed, interactions_optional=interactions_optional, cache=populations
        )
        split = load_split(shop, config.data.split)
        features = catalogue_features(shop.catalogue, config.features, progress=progress)
        _SHOPS.clear()
        _WORKSPACES.clear()
        _SHOPS[sources] = (shop, split, features, _own(shop, config, features, own_vault))
    check_own_content(config, _SHOPS[sources][0])
    check_people(config)
    if len(_WORKSPACES) >= _MOST_WORKSPACES:
        _WORKSPACES.clear()
    shop, split, features, own = _SHOPS[sources]
    if config.training.objective == "mse":
        shop = replace(shop, interactions=shop.interactions.rated())
        parts = {name: getattr(split, name).rated() for name in ("train", "validation", "test")}
        split = replace(split, **parts)
    _WORKSPACES[config] = Workspace(config, shop, split, features, own)
    return _WORKSPACES[config]


def hold_workspace(config: Config, workspace: Workspace) -> None:
    """Let this process work with ``workspace`` under ``config``: an audit runs with people taken out of the shop."""
    _WORKSPACES[config] = workspace


def _own(shop: Shop, config: Config, features: FeatureSet, vault: Vault | None) -> OwnFeatures | None:
    """Own content, encoded; reviews of held-out items are left out like all that concerns these."""
    if shop.own is None:
        return None
    own = shop.own
    if config.data.split.cold_items:
        cold = np.append(held_out(shop, config.data.split).items, False)  # the last for rows about no item
        own = own.keep_rows(~cold[own.items])
    cache = vault or (config.features.cache or default_cache()) / "own"
    return own_features(own, shop.catalogue, config.features, features, cache=cache) if len(own) else None


def check_own_content(config: Config, shop: Shop) -> None:
    """Refuse what own content has no place in.

    Raises:
        MmfedError: record-level privacy, rating prediction, or histories whose order is not time.
    """
    if shop.own is None:
        return
    refused = {
        "privacy.mode = 'record'": (config.privacy.mode == "record", "its unit is a window of interactions"),
        "training.objective = 'mse'": (config.training.objective == "mse", "a query or photo rates nothing"),
        "training.context = 'others'": (config.training.context == "others", "a review would tell its own item"),
    }
    for setting, (chosen, reason) in refused.items():
        if chosen:
            raise MmfedError(
                ExitCode.CONFIG,
                f"{setting} has no place for own content (queries, reviews, photos): {reason}.",
                "set data.own_content = false.",
            )


def check_people(config: Config) -> None:
    """Refuse what the answers of people have no place in.

    Raises:
        MmfedError: record-level privacy.
    """
    if config.data.people and config.privacy.mode == "record":
        raise MmfedError(
            ExitCode.CONFIG,
            "privacy.mode = 'record' has no place for data.people: its unit is a window of interactions, and what "
            "people say about themselves belongs to none.",
            "leave out data.people, or take privacy.mode = 'user-central'.",
        )


_MOST_WORKSPACES = 8
NEVER, NOW = np.iinfo(np.int64).min, np.iinfo(np.int64).max - 1  # seconds, before and after everything there is
_SHOPS: dict[tuple[DataSection, FeaturesSection], tuple[Shop, Split, FeatureSet, OwnFeatures | None]] = {}
_WORKSPACES: dict[Config, Workspace] = {}
