"""All behaviour classifiers on one shop: trained on what came first in every history, tested on what came after.

NO DIFFERENTIAL PRIVACY: but for the federated row, everybody's rows are pooled in one place, which a simulation can do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context

from mmfed.config import Config, SplitSection
from mmfed.data.behaviour import BehaviourTable, behaviour_table, one_hot
from mmfed.data.imbalance.contribution import Contribution
from mmfed.data.imbalance.extra import require_trees
from mmfed.data.load import load_shop
from mmfed.data.partition import partition_users
from mmfed.data.schema import Shop
from mmfed.data.split import split_shop
from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.intervals import Estimate
from mmfed.federated.boosting import boosted_classifier, client_app, server_app
from mmfed.federated.boosting_plan import BoostingPlan
from mmfed.simulation.behaviour_metrics import behaviour_metrics
from mmfed.simulation.inprocess import run_inprocess
from mmfed.training.behaviour import NO_PRIVACY, BehaviourClassifier, BehaviourMethod, fit_behaviour

METHODS = (
    BehaviourMethod(classifier="majority"),
    BehaviourMethod(classifier="last-action"),
    BehaviourMethod(classifier="logistic", weighting="balanced"),
    BehaviourMethod(classifier="adaboost", weighting="balanced", trees=50),
    BehaviourMethod(classifier="xgboost"),
    BehaviourMethod(classifier="xgboost", weighting="balanced"),
    BehaviourMethod(classifier="xgboost", resampling="random-over"),
    BehaviourMethod(classifier="xgboost", resampling="random-over", pool="device", most_copies=4),
    BehaviourMethod(classifier="xgboost", resampling="random-under"),
    BehaviourMethod(classifier="xgboost", resampling="smote"),
)
BOOSTING_ROUNDS = 20  # merging re-reads the whole model for every tree: cost grows with the square of the trees
FEDERATED_NODES = 10  # where the configuration leaves federation.nodes at 1
TEST_SHARE = SplitSection(kind="ratio", validation=0.0, test=0.2)


@dataclass(frozen=True, eq=False)
class BehaviourRow:
    """A method with its test figures.

    Attributes:
        name: of the method in tables.
        metrics: see ``behaviour_metrics``.
        training_rows: after resampling.
        multiplicity: most training rows that derive from one original; None where nothing was resampled.
        contribution: rows per user before and after; None where synthetic rows mix people.
    """

    name: str
    metrics: dict[str, Estimate]
    training_rows: int
    multiplicity: int | None
    contribution: Contribution | None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        heaviest = None if self.contribution is None else float(self.contribution.multiplicity.max())
        return {
            "name": self.name,
            "privacy": NO_PRIVACY,
            "training_rows": self.training_rows,
            "rows_from_one_original": self.multiplicity,
            "heaviest_user_multiplicity": heaviest,
            "metrics": {name: estimate.to_json() for name, estimate in self.metrics.items()},
        }


@dataclass(frozen=True, eq=False)
class BehaviourResult:
    """All methods on one shop."""

    shop: Shop
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    test_rows: int
    test_users: int
    split: str
    rows: tuple[BehaviourRow, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "shop": self.shop.name,
            "users": self.shop.interactions.user_count,
            "privacy": NO_PRIVACY,
            "classes": dict(zip(self.classes, self.counts, strict=True)),
            "test_rows": self.test_rows,
            "test_users": self.test_users,
            "split": self.split,
            "methods": [row.to_json() for row in self.rows],
            "notes": list(self.notes),
        }


def classify_behaviour(
    config: Config,
    *,
    methods: Sequence[BehaviourMethod] = METHODS,
    boosting_rounds: int = BOOSTING_ROUNDS,
    progress: Callable[[str, int, int], None] | None = None,
) -> BehaviourResult:
    """Train and test every method.

    Args:
        config: the shop, its split (``ratio`` or ``global-time``; anything else takes the latest fifth of every history
            as test), the seed, the nodes of the federated row. ``data.repeats`` is taken as "all".
        boosting_rounds: of XGBoost federated over nodes; 0 leaves that row out.

    Raises:
        MmfedError: privacy is promised (nothing here has any), the shop has nothing to tell apart, or the ``trees``
            extra is missing.
    """
    if config.privacy.mode != "none":
        raise MmfedError(
            ExitCode.PRIVACY,
            f"behaviour classifiers have {NO_PRIVACY}, and privacy.mode = {config.privacy.mode}.",
            "set privacy.mode = none (--set privacy.mode=none) where that is acceptable.",
        )
    require_trees("sklearn", "imblearn", "xgboost")
    shop = load_shop(config.data.model_copy(update={"repeats": "all"}), seed=config.data.seed)
    train, test, split = behaviour_split(shop, config.data.split)
    users = shop.interactions.user_count
    nodes = config.federation.nodes if config.federation.nodes > 1 else min(FEDERATED_NODES, users)
    partition_users(users, nodes, 0)
    names = tuple(action.name.lower() for action in train.classes)
    total = len(methods) + int(boosting_rounds > 0)

    def assessed(classifier: BehaviourClassifier) -> dict[str, Estimate]:
        return behaviour_metrics(
            classifier.probabilities(test.values),
            test.labels,
            test.groups,
            names,
            resamples=config.evaluation.bootstrap,
            seed=config.run.seed,
        )

    rows = []
    for method in methods:
        classifier, trained = fit_behaviour(train, method, seed=config.run.seed)
        resampled = method.resampling != "none"
        rows.append(
            BehaviourRow(
                name=method.name,
                metrics=assessed(classifier),
                training_rows=len(trained),
                multiplicity=trained.privacy_multiplicity() if resampled else None,
                contribution=trained.contribution() if (trained.groups >= 0).all() else None,
            )
        )
        if progress is not None:
            progress("classifiers", len(rows), total)
    if boosting_rounds > 0:
        name = f"XGBoost federated over {nodes} nodes + class weights"
        classifier = federated_boosting(train, users=users, nodes=nodes, rounds=boosting_rounds, seed=config.run.seed)
        rows.append(BehaviourRow(name, assessed(classifier), len(train), None, None))
        if progress is not None:
            progress("classifiers", len(rows), total)
    notes = (
        *shop.notes,
        f"every method: {NO_PRIVACY}",
        "the item's popularity is counted over everybody's training rows, uncharged",
        "the next action is predicted without knowing its item or time, which would give it away",
    )
    return BehaviourResult(
        shop=shop,
        classes=names,
        counts=tuple(np.bincount(np.concatenate([train.labels, test.labels]), minlength=len(names)).tolist()),
        test_rows=len(test),
        test_users=len(np.unique(test.groups)),
        split=split,
        rows=tuple(rows),
        notes=notes,
    )


def behaviour_split(shop: Shop, section: SplitSection) -> tuple[BehaviourTable, BehaviourTable, str]:
    """Training rows, test rows and how they were cut: no user's test row is before one of the user's training rows.

    Raises:
        MmfedError: one side is empty, or the training rows hold a single action.
    """
    chosen = section if section.kind in ("ratio", "global-time") else TEST_SHARE
    split = split_shop(shop, chosen)
    past = split.before_test
    interactions = shop.interactions
    popularity = np.bincount(past.items, minlength=interactions.item_count)
    table = behaviour_table(interactions, shop.catalogue, popularity=popularity)
    first_test_row = interactions.indptr[:-1] + past.lengths
    is_test = table.places >= first_test_row[table.groups]
    train, test = table.keep(~is_test), table.keep(is_test)
    if not len(test) or len(np.unique(train.labels)) < 2:
        raise MmfedError(
            ExitCode.DATA,
            f"{len(train)} training rows of {len(np.unique(train.labels))} kinds of action and {len(test)} test rows: "
            "nothing to train or test on.",
            "give longer histories with several actions, or another data.split.test.",
        )
    return train, test, split.description


def federated_boosting(train: BehaviourTable, *, users: int, nodes: int, rounds: int, seed: int) -> BehaviourClassifier:
    """XGBoost over ``nodes`` nodes of this process; each holds every ``nodes``-th user.

    Raises:
        MmfedError: more nodes than users, or no node could train.
    """
    partition_users(users, nodes, 0)
    plan = BoostingPlan(
        classes=len(train.classes),
        columns=one_hot(train.values[:1], train.levels).shape[1],
        nodes=nodes,
        rounds=rounds,
        seed=seed,
    )

    def load(context: Context) -> BehaviourTable:
        members = partition_users(users, nodes, int(context.node_config["partition-id"]))
        return train.keep(np.isin(train.groups, members))

    models: list[bytes] = []
    with tempfile.TemporaryDirectory() as state:
        run_inprocess(
            server_app(plan, models.append), client_app(load), nodes=nodes, state_folder=Path(state), run_config={}
        )
    return boosted_classifier(models[-1], train)
