"""The outcome of a ranking evaluation, and comparison and aggregation of outcomes on the same users."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.intervals import NORMAL_95, Estimate, bootstrap_estimates, resampling_weights
from mmfed.evaluation.protocol import ProtocolName
from mmfed.rng import numpy_generator
from mmfed.types import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class RankingResult:
    """Metrics of one scorer under one protocol.

    Attributes:
        metrics: every metric with its interval; undefined ones carry the reason.
        per_user: [users] values of the metrics that are means over users; NaN where undefined for a user.
        evaluated_users: [users] index of each evaluated user.
        lists: [users, longest k] recommended items, best first, -1 where a list is short; None under sampled protocols.
        counts: users, users_left_out, items, cold_items, cold_targets, seeds.
        notes: what a reader of the table must know, one line each.
    """

    metrics: Mapping[str, Estimate]
    per_user: Mapping[str, FloatArray]
    evaluated_users: IntArray
    lists: IntArray | None
    users: int
    users_left_out: int
    protocol: ProtocolName
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> float:
        return self.metrics[name].mean

    def to_json(self) -> dict[str, Any]:
        """Aggregates only (nothing per user), without NaN."""
        return {
            "protocol": self.protocol,
            "users": self.users,
            "users_left_out": self.users_left_out,
            "counts": dict(self.counts),
            "notes": list(self.notes),
            "metrics": {name: estimate.to_json() for name, estimate in self.metrics.items()},
        }


def paired_difference(
    first: RankingResult, second: RankingResult, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """first - second per metric on the same users, with paired-bootstrap intervals (users resampled together).

    Covers the metrics that are means over users. An interval without 0 is a difference at the 95 % level.

    Raises:
        MmfedError: different users or protocols.
    """
    _same_ground([first, second])
    shared = [name for name in first.per_user if name in second.per_user]
    differences = {name: first.per_user[name] - second.per_user[name] for name in shared}
    return bootstrap_estimates(differences, resamples=resamples, seed=seed)


def combine_seeds(results: Sequence[RankingResult], *, resamples: int = 1000, seed: int = 0) -> RankingResult:
    """One result from runs with different seeds on the same users.

    Means are over users and seeds. Intervals of user means come from a crossed bootstrap (users and seeds both
    resampled), those of coverage and Gini add the variance within a run to the variance of the mean between seeds.

    Raises:
        MmfedError: no result, or different users or protocols.
    """
    if not results:
        raise MmfedError(ExitCode.FAULT, "no result was given to combine.", "pass one result per seed.")
    _same_ground(results)
    if len(results) == 1:
        return results[0]
    shared = [name for name in results[0].per_user if all(name in other.per_user for other in results)]
    stacked = {name: np.stack([result.per_user[name] for result in results]) for name in shared}
    metrics = dict(_crossed_bootstrap(stacked, resamples, seed)) if stacked else {}
    for name in results[0].metrics:
        if name not in metrics and all(name in other.metrics for other in results):
            metrics[name] = _between_and_within([result.metrics[name] for result in results])
    return replace(
        results[0],
        metrics=metrics,
        per_user={name: values.mean(axis=0) for name, values in stacked.items()},
        lists=None,
        counts={**results[0].counts, "seeds": len(results)},
        notes=(*results[0].notes, f"mean over {len(results)} seeds"),
    )


def _crossed_bootstrap(stacked: Mapping[str, FloatArray], resamples: int, seed: int) -> dict[str, Estimate]:
    """``stacked``: per metric [seeds, users]."""
    estimates = bootstrap_estimates(
        {name: values.mean(axis=0) for name, values in stacked.items()}, resamples=0, seed=seed
    )
    if resamples == 0:
        return estimates
    generator = numpy_generator(seed, "bootstrap", "seeds")
    seeds, users = next(iter(stacked.values())).shape
    draws: dict[str, list[float]] = {name: [] for name in stacked}
    for _ in range(resamples):
        user_weights = resampling_weights(users, 1, generator)[0]
        seed_weights = resampling_weights(seeds, 1, generator)[0]
        for name, values in stacked.items():
            present = ~np.isnan(values)
            total = seed_weights @ np.where(present, values, 0.0) @ user_weights
            size = seed_weights @ present @ user_weights
            draws[name].append(float(total / size) if size > 0 else math.nan)
    for name, estimate in estimates.items():
        if estimate.defined and estimate.users > 1:
            drawn = [value for value in draws[name] if not math.isnan(value)]
            low, high = np.quantile(drawn, [0.025, 0.975]) if drawn else (estimate.mean, estimate.mean)
            estimates[name] = replace(estimate, low=float(low), high=float(high), reason="")
    return estimates


def _between_and_within(estimates: Sequence[Estimate]) -> Estimate:
    undefined = next((estimate for estimate in estimates if not estimate.defined), None)
    if undefined is not None:
        return undefined
    means = np.array([estimate.mean for estimate in estimates])
    errors = [estimate.standard_error for estimate in estimates]
    within = [error for error in errors if error is not None]
    mean, users = float(means.mean()), estimates[0].users
    if len(within) < len(errors):
        return Estimate(mean, users=users, reason="a run has no interval")
    half = NORMAL_95 * math.sqrt(float(np.mean(np.square(within))) + float(means.var(ddof=1)) / len(means))
    highest = max(1.0, *(one.high for one in estimates if one.high is not None), mean)
    lowest = min(0.0, *(one.low for one in estimates if one.low is not None), mean)
    return Estimate(mean, max(lowest, mean - half), min(highest, mean + half), users)


def _same_ground(results: Sequence[RankingResult]) -> None:
    first = results[0]
    for other in results[1:]:
        if other.protocol != first.protocol:
            raise MmfedError(
                ExitCode.FAULT,
                f"results under protocols '{first.protocol}' and '{other.protocol}' are not comparable.",
                "evaluate both under one protocol.",
            )
        if not np.array_equal(first.evaluated_users, other.evaluated_users):
            raise MmfedError(
                ExitCode.FAULT,
                f"the results are over different users ({first.users} and {other.users}).",
                "evaluate both on the same split.",
            )
