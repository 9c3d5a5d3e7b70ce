"""Rows of private alternating least squares in a comparison: simulated in one place, no device runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy import sparse

from mmfed.data.schema import Interactions
from mmfed.evaluation.result import RankingResult, combine_seeds
from mmfed.federated.workspace import Workspace, histories_of
from mmfed.models.baselines.base import history_matrix
from mmfed.models.denoise import content_columns, content_directions, denoised_popularity
from mmfed.models.noised_ease import most_popular
from mmfed.models.private_als import AlsSettings, fit_items, user_factors
from mmfed.privacy.accounting import epsilon as account
from mmfed.privacy.als import AlsPlan, plan_als
from mmfed.privacy.mechanisms import SeededNoise
from mmfed.privacy.units import default_delta, guarantee_for
from mmfed.rng import numpy_generator
from mmfed.simulation.assess import assess
from mmfed.training.cooccurrence import popularity_counts
from mmfed.types import FloatArray, IntArray

KIND = "simulated in one place, noise as a trusted server would add it"
SIMULATED = "no device runs this method and no ledger was charged: accounted, with seeded noise, for comparison alone"


class AlsMethod(BaseModel):
    """One row: ``[[compare.private_als]]``."""

    model_config = ConfigDict(extra="forbid")

    name: str
    epsilon: float | None = Field(default=None, gt=0, description="of the whole run, nats; none: without privacy")
    delta: float | None = Field(default=None, gt=0, lt=1, description="none: N ** -1.1")
    counts_share: float = Field(default=0.1, gt=0, lt=1, description="popularity's part of the budget")
    rank: int = Field(default=AlsSettings.rank, ge=1)
    rounds: int = Field(default=AlsSettings.rounds, ge=1)
    items_per_user: int = Field(default=AlsSettings.items_per_user, ge=1)
    items: int = Field(default=AlsSettings.items, ge=1)
    unseen: float = Field(default=AlsSettings.unseen, ge=0)
    ridge: float = Field(default=AlsSettings.ridge, gt=0)
    user_ridge: float = Field(default=AlsSettings.user_ridge, gt=0)
    history_decay: float = Field(default=AlsSettings.history_decay, gt=0, le=1)
    choice: str = Field(default=AlsSettings.choice, pattern="^(rarest|latest)$")

    def settings(self) -> AlsSettings:
        """Of the model."""
        names = AlsSettings.__dataclass_fields__
        return AlsSettings(**{name: getattr(self, name) for name in names})

    def plan(self, population: int) -> AlsPlan | None:
        """The noise of a run; None without privacy."""
        if self.epsilon is None:
            return None
        delta = default_delta(population) if self.delta is None else self.delta
        return plan_als(epsilon=self.epsilon, delta=delta, rounds=self.rounds, counts_share=self.counts_share)


class AlsScorer:
    """Item factors of a run, and the scores of users by their own factors.

    Args:
        covered: [m] the items with factors, ascending.
        factors: [m, rank].
        counts: [items] denoised; they rank the items without factors, behind all others.
    """

    def __init__(self, covered: IntArray, factors: FloatArray, counts: FloatArray, settings: AlsSettings) -> None:
        self._covered, self._factors, self._counts, self._settings = covered, factors, counts, settings

    def score(self, history: Interactions, users: IntArray) -> FloatArray:
        """[len(users), items], by what is known of the users now."""
        own = user_factors(_weights(history, users, self._covered, self._settings), self._factors, self._settings)
        known = own @ self._factors.T
        rest = self._counts / self._counts.max() + known.min(axis=1, keepdims=True) - 2.0
        rest[:, self._covered] = known
        return rest


def fitted(workspace: Workspace, method: AlsMethod, *, seed: int) -> AlsScorer:
    """Fit on the training split; the noise follows from the seed."""
    train, settings = workspace.split.train, method.settings()
    everyone, plan = np.arange(train.user_count), method.plan(train.user_count)
    content = content_columns(workspace.features.modalities, train.item_count)
    counts, noise = popularity_counts(histories_of(train, workspace.user_keys), train.item_count), SeededNoise(seed)
    if plan is None:
        counts = np.maximum(counts, 1e-9)
    else:
        drawn = noise.standard_normal(len(counts), round_number=0, purpose="alternating least squares, counts")
        counts = denoised_popularity(counts + plan.counts_noise * drawn, plan.counts_noise, content)
    covered = most_popular(counts, settings.items)
    factors = fit_items(
        _weights(train, everyone, covered, settings),
        counts[covered],
        _start(content[covered], settings.rank, seed),
        settings,
        noise_multiplier=0.0 if plan is None else plan.noise_multiplier,
        noise=noise,
    )
    return AlsScorer(covered, factors, counts, settings)


def als_row(workspace: Workspace, method: AlsMethod, seeds: Sequence[int]) -> tuple[dict[str, Any], RankingResult]:
    """A row of a comparison, and its figures over the seeds."""
    results = []
    for seed in seeds:
        scorer = fitted(workspace, method, seed=seed)
        results.append(assess(workspace, lambda users, s=scorer: s.score(workspace.before_test, users), seed=seed))
    population, plan = workspace.split.train.user_count, method.plan(workspace.split.train.user_count)
    delta = default_delta(population) if method.delta is None else method.delta
    spent = None if plan is None else account(plan.releases(), delta).value
    promise = guarantee_for(
        "none" if plan is None else "user-central", epsilon=spent, population=population, delta=method.delta
    )
    statement = asdict(promise) | {"epsilon": spent, "sentence": promise.sentence(), "simulated": SIMULATED}
    row = {"name": method.name, "kind": KIND, "federated": False, "privacy": statement}
    return row, combine_seeds(results, resamples=workspace.config.evaluation.bootstrap)


def _start(content: FloatArray, rank: int, seed: int) -> FloatArray:
    """[items, rank] of norm 1: public directions of the content, then random ones where it has too few."""
    known = content_directions(content, rank)
    drawn = numpy_generator(seed, "alternating least squares").standard_normal((len(content), rank - known.shape[1]))
    start = np.concatenate([known, drawn], axis=1)
    return start / np.maximum(np.linalg.norm(start, axis=1, keepdims=True), 1e-9)


def _weights(history: Interactions, users: IntArray, covered: IntArray, settings: AlsSettings) -> sparse.csr_array:
    return sparse.csr_array(history_matrix(history, users, decay=settings.history_decay)[:, covered])
