"""Exact evaluation of a score function on a workspace: what only a simulation, which sees all data, can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmfed.data.labels import category_matrix
from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.protocol import ScoreFunction, tie_keys
from mmfed.evaluation.ranking import evaluate_ranking
from mmfed.evaluation.rating import evaluate_rating
from mmfed.evaluation.result import RankingResult
from mmfed.federated.workspace import Workspace
from mmfed.models.baselines.base import KIND_NOTES
from mmfed.models.baselines.ratings import DampedMeans, GlobalMean
from mmfed.models.baselines.registry import build_baseline
from mmfed.types import FloatArray, IntArray

RatingFunction = Callable[[IntArray, IntArray], FloatArray]


@dataclass(frozen=True, eq=False)
class Assessed:
    """A method with its test figures.

    Attributes:
        name: of the method in tables.
        kind: what it sees, in a few words.
        result: the figures.
    """

    name: str
    kind: str
    result: RankingResult


def assess(workspace: Workspace, score: ScoreFunction, *, seed: int | None = None) -> RankingResult:
    """Test figures of a score function; the history is train followed by validation."""
    config, split = workspace.config, workspace.split
    counts = split.train.rows_per_item()
    return evaluate_ranking(
        score,
        history=workspace.before_test,
        targets=split.test,
        item_count=split.train.item_count,
        train_counts=counts,
        train_users=workspace.train_users,
        ks=config.evaluation.k,
        categories=category_matrix(workspace.shop.catalogue),
        content=content_matrix(workspace),
        protocol=config.evaluation.protocol,
        seed=config.run.seed if seed is None else seed,
        bootstrap=config.evaluation.bootstrap,
        tie_key=tie_keys(workspace.shop.catalogue.item_ids, config.run.seed),
        users=workspace.evaluated(split.test),
    )


def assess_ratings(workspace: Workspace, score: RatingFunction, *, seed: int | None = None) -> RankingResult:
    """Test figures of a rating predictor over all rated test interactions; the history is train and validation.

    Raises:
        MmfedError: the test split holds no rating.
    """
    test = workspace.split.test
    rated = np.isfinite(test.values)
    if not rated.any():
        raise MmfedError(
            ExitCode.DATA,
            f"{workspace.shop.name}: no test interaction has a rating.",
            "take a ranking objective (training.objective = 'softmax'), or a shop with ratings.",
        )
    users = test.user_of_row()[rated]
    predicted = score(users, test.items[rated])
    config = workspace.config
    return RankingResult(
        metrics=evaluate_rating(
            predicted,
            test.values[rated],
            users=users,
            resamples=config.evaluation.bootstrap,
            seed=config.run.seed if seed is None else seed,
        ),
        per_user={},
        evaluated_users=np.unique(users),
        lists=None,
        users=len(np.unique(users)),
        users_left_out=test.user_count - len(np.unique(users)),
        protocol=config.evaluation.protocol,
    )


def assess_rating_baselines(workspace: Workspace) -> list[Assessed]:
    """What a rating predictor has to beat: the mean of all ratings, and damped item and user means."""
    history = workspace.split.before_test
    assessed = []
    for kind in (GlobalMean, DampedMeans):
        baseline = kind().fit(workspace.split.train)
        result = assess_ratings(workspace, lambda users, items, fitted=baseline: fitted.predict(history, users, items))
        assessed.append(Assessed(kind.name, KIND_NOTES["centralised"], result))
    return assessed


def assess_baseline(workspace: Workspace, name: str, *, seed: int | None = None) -> Assessed:
    """Fit a baseline on the training split and give its test figures.

    Raises:
        MmfedError: no baseline has that name, or it learns from content and the shop has none.
    """
    seed = workspace.config.run.seed if seed is None else seed
    baseline = build_baseline(name).fit(workspace.split.train, seed=seed, features=workspace.features.modalities)
    history = workspace.before_test
    result = assess(workspace, lambda users: baseline.score(history, users), seed=seed)
    return Assessed(name, KIND_NOTES[baseline.kind], result)


def assess_baselines(workspace: Workspace, progress: Callable[[str], None] | None = None) -> list[Assessed]:
    """All baselines of the configuration."""
    assessed = []
    for name in workspace.config.evaluation.baselines:
        if progress is not None:
            progress(name)
        assessed.append(assess_baseline(workspace, name))
    return assessed


def content_matrix(workspace: Workspace) -> FloatArray | None:
    """[items, d] all modalities side by side; None when there are none."""
    modalities = workspace.features.modalities.values()
    if not modalities:
        return None
    return np.concatenate([np.where(one.present[:, None], one.values, 0.0) for one in modalities], axis=1)
