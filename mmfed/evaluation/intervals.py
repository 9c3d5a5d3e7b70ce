"""Estimates with 95 % intervals over users: bootstrap for means, jackknife for figures of the whole set of lists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfed.rng import numpy_generator
from mmfed.types import FloatArray

NORMAL_95 = 1.959963984540054
RESAMPLE_CELLS = 2**20  # resampling weights held at once; several arrays of so many 8-byte numbers


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval.

    Attributes:
        mean: NaN where the figure is undefined; ``reason`` then says why.
        low, high: None where there is no interval; ``reason`` then says why.
        users: over how many users (or pairs) it is taken.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    users: int = 0
    reason: str = ""

    @property
    def defined(self) -> bool:
        return not math.isnan(self.mean)

    @property
    def standard_error(self) -> float | None:
        """Half the interval over 1.96; None without an interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / (2 * NORMAL_95)

    def to_json(self) -> dict[str, Any]:
        """Without NaN: undefined figures are None, with the reason."""
        tree: dict[str, Any] = {
            "mean": self.mean if self.defined else None,
            "low": self.low,
            "high": self.high,
            "users": self.users,
        }
        return {**tree, "reason": self.reason} if self.reason else tree


def undefined(reason: str) -> Estimate:
    """An estimate that does not exist."""
    return Estimate(mean=math.nan, reason=reason)


def resampling_weights(users: int, resamples: int, generator: np.random.Generator) -> FloatArray:
    """[resamples, users] how often each user is drawn in a resample of the same size, float64."""
    draws = generator.integers(0, users, size=(resamples, users))
    cells = draws + np.arange(resamples)[:, None] * users
    return np.bincount(cells.ravel(), minlength=resamples * users).reshape(resamples, users).astype(np.float64)


def bootstrap_estimates(values: Mapping[str, FloatArray], *, resamples: int, seed: int) -> dict[str, Estimate]:
    """Means over users with percentile-bootstrap intervals.

    Args:
        values: per metric [users]; NaN marks a user for whom the metric is undefined and is left out of the mean.
        resamples: 0 gives no intervals. All metrics share the resamples.
    """
    names = list(values)
    if not names:
        return {}
    table = np.stack([np.asarray(values[name], dtype=np.float64) for name in names], axis=1)
    present = ~np.isnan(table)
    filled = np.where(present, table, 0.0)
    counts = present.sum(axis=0)
    means = np.full(len(names), np.nan)
    np.divide(filled.sum(axis=0), counts, out=means, where=counts > 0)
    bounds = _percentiles(filled, present, resamples, seed) if resamples > 0 and len(table) > 1 else None
    estimates: dict[str, Estimate] = {}
    for column, name in enumerate(names):
        users = int(counts[column])
        if users == 0:
            estimates[name] = undefined("no user for whom it is defined")
        elif bounds is None or users < 2 or np.isnan(bounds[0, column]):
            reason = "no resamples were asked for" if resamples == 0 else "one user only: no interval"
            estimates[name] = Estimate(float(means[column]), users=users, reason=reason)
        else:
            low, high = bounds[:, column]
            estimates[name] = Estimate(float(means[column]), float(low), float(high), users)
    return estimates


def _percentiles(filled: FloatArray, present: np.ndarray, resamples: int, seed: int) -> FloatArray:
    """[2, metrics] the 2.5 % and 97.5 % points of the resampled means."""
    generator = numpy_generator(seed, "bootstrap")
    users = len(filled)
    at_once = max(1, RESAMPLE_CELLS // users)
    means: list[FloatArray] = []
    for start in range(0, resamples, at_once):
        weights = resampling_weights(users, min(at_once, resamples - start), generator)
        sums, sizes = weights @ filled, weights @ present.astype(np.float64)
        # A resample may miss every user of a rare metric: it says nothing about it.
        means.append(np.divide(sums, sizes, out=np.full_like(sums, np.nan), where=sizes > 0))
    table = np.concatenate(means)
    bounds = np.full((2, table.shape[1]), np.nan)
    for column in range(table.shape[1]):
        drawn = table[~np.isnan(table[:, column]), column]
        if len(drawn):
            bounds[:, column] = np.quantile(drawn, [0.025, 0.975])
    return bounds


def jackknife_estimate(value: float, influence: FloatArray, *, upper: float = 1.0) -> Estimate:
    """A figure of the whole set of lists (coverage, Gini) with a normal interval from what each user contributes.

    A bootstrap is biased here: a resample holds 63 % of the users, so it shows fewer distinct items than the sample.
    The jackknife variance errs on the wide side (Efron and Stein 1981).

    Args:
        influence: [users] value minus the value without that user (or its first-order approximation).
    """
    users = len(influence)
    if users < 2:
        return Estimate(value, users=users, reason="one user only: no interval")
    spread = math.sqrt((users - 1) / users * float(((influence - influence.mean()) ** 2).sum()))
    half = NORMAL_95 * spread
    return Estimate(value, max(0.0, value - half), min(upper, value + half), users)
