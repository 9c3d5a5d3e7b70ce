"""Evaluation figures as one noised sum: accuracy, coverage and concentration of exposure from a single release.

Guarantee of a release: the Gaussian mechanism with noise multiplier σ; unit one user (the own figures and the own
list), adjacency add/remove one user, the server trusted to add the noise; charged on the line "metrics". A user's
vector has norm 1 at most by construction, so nothing is clipped and no norm has to be chosen:

- √(1/3) where the user has something to test on, else the whole vector is 0;
- √(1/3p) times each of p figures in [0, 1];
- √(1/3k) at each of the k items of the user's list.

Means are the second part over the first; the third is the histogram of exposure, of which coverage and Gini are taken.
All of that is post-processing and costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.accounting import GaussianRelease
from mmfed.privacy.budget import Budget
from mmfed.privacy.ledger import Ledger, ReleaseEvent, result_hash
from mmfed.privacy.mechanisms import GaussianMechanism
from mmfed.types import FloatArray, IntArray

NAMES = ("recall", "ndcg", "hit_rate")
_THIRD = math.sqrt(1 / 3)
_ROUNDED_AWAY = 0.1  # lists; noise this weak moves a count to another whole number with probability 6e-7
_MOST_LISTS = 10**6


@dataclass(frozen=True)
class MetricLayout:
    """What stands where in a user's vector.

    Args:
        items: size of the catalogue.
        k: length of a list.
    """

    items: int
    k: int

    @property
    def size(self) -> int:
        """Coordinates of the vector."""
        return 1 + len(NAMES) + self.items

    @property
    def names(self) -> tuple[str, ...]:
        """The figures, in order."""
        return tuple(f"{name}@{self.k}" for name in NAMES)

    def total(self, figures: FloatArray, lists: IntArray) -> FloatArray:
        """[size] the sum over users with something to test on.

        Args:
            figures: [users, p] in [0, 1], in the order of ``names``; anything else counts as 0 or 1.
            lists: [users, at least k] item indices, best first; -1 where a list is shorter.
        """
        bounded = np.clip(np.nan_to_num(figures), 0.0, 1.0)
        shown = lists[:, : self.k]
        exposure = np.zeros(self.items)
        for row in shown:
            exposure[np.unique(row[row >= 0])] += 1
        scale = _THIRD / math.sqrt(len(NAMES))
        return np.concatenate(
            [[_THIRD * len(bounded)], scale * bounded.sum(axis=0), _THIRD / math.sqrt(self.k) * exposure]
        )


@dataclass(frozen=True, kw_only=True)
class PrivateMetrics:
    """Figures read from a noised sum.

    Args:
        values: by name, ``catalogue_coverage@k`` and ``gini@k`` among them; NaN where noise left nothing to divide by.
        exposure: [items] noised number of lists an item stands in; may be negative.
        deviation: standard deviation of its noise, lists.
    """

    values: Mapping[str, float]
    exposure: FloatArray
    deviation: float


def release_metrics(
    total: FloatArray,
    layout: MetricLayout,
    mechanism: GaussianMechanism,
    ledger: Ledger,
    *,
    population: int,
    users: int,
    round_number: int,
) -> PrivateMetrics:
    """Add noise, charge, and only then read.

    Args:
        total: [size] sum over users; discard it after use.
        mechanism: of clip norm 1.
        ledger: charged on the line "metrics"; its target is kept.
        population: enrolled users, N.
        users: that answered.

    Raises:
        MmfedError: the budget does not allow it, or the charge is not durable; nothing is released then.
    """
    if mechanism.clip_norm != 1.0 or total.shape != (layout.size,):
        raise MmfedError(
            ExitCode.PRIVACY,
            "metrics are released at clip norm 1, in the layout asked for.",
            "use release_metrics as is.",
        )
    noised = mechanism.release(
        total, planned_cohort=1, round_number=round_number, contributors=users, purpose="metrics"
    )
    kind = GaussianRelease(noise_multiplier=mechanism.noise_multiplier, sampling="full", sampling_rate=1.0)
    event = ReleaseEvent(
        round=round_number,
        line="metrics",
        clip_norm=1.0,
        noise_multiplier=kind.noise_multiplier,
        sampling=kind.sampling,
        sampling_rate=kind.sampling_rate,
        planned_cohort=population,
        realised_cohort=users,
        dropouts=population - users,
        result_hash=result_hash(noised),
    )
    target = ledger.header.target_epsilon
    if target is not None and not ledger.is_charged(event):
        Budget(target_epsilon=float(target), ledger=ledger).admit(kind, round_number=round_number)
    ledger.charge(event)
    return read_metrics(noised, layout, mechanism.noise_multiplier)


def read_metrics(noised: FloatArray, layout: MetricLayout, sigma: float) -> PrivateMetrics:
    """Means, exposure, coverage and Gini of a noised sum (post-processing)."""
    count = noised[0] / _THIRD
    sums = noised[1 : 1 + len(NAMES)] / _THIRD * math.sqrt(len(NAMES))
    unit = math.sqrt(layout.k) / _THIRD
    exposure, deviation = noised[1 + len(NAMES) :] * unit, sigma * unit
    usable = count > 2 * sigma / _THIRD  # below, the divisor is noise
    values = {
        name: float(min(max(value / count, 0.0), 1.0)) if usable else math.nan
        for name, value in zip(layout.names, sums, strict=True)
    }
    coverage, concentration = coverage_and_gini(exposure, deviation)
    values[f"catalogue_coverage@{layout.k}"] = coverage
    values[f"gini@{layout.k}"] = concentration
    return PrivateMetrics(values=values, exposure=exposure, deviation=deviation)


def coverage_and_gini(exposure: FloatArray, deviation: float) -> tuple[float, float]:
    """Share of items shown at all, and Gini coefficient, from noised counts; NaN where nothing is seen.

    Noise well below one list is rounded away. Above, single items cannot be told from noise, but the mean and variance
    of the counts can (that of the noise is known): both figures are those of a gamma-Poisson law with these moments. It
    errs where exposure follows another law.
    """
    if deviation < _ROUNDED_AWAY:
        counts = np.maximum(np.round(exposure), 0.0)
        return float((counts > 0).mean()), gini_of(counts)
    mean, variance = float(exposure.mean()), float(exposure.var()) - deviation**2
    if mean <= 0:
        return math.nan, math.nan
    spread = max(variance - mean, 1e-6 * mean)  # beyond a Poisson law's
    shape = mean**2 / spread
    most = math.ceil(mean + 40 * math.sqrt(max(variance, mean)) + 40)
    counts = np.arange(min(most, _MOST_LISTS))
    logs = (
        special.gammaln(counts + shape) - special.gammaln(shape) - special.gammaln(counts + 1)
        + shape * -math.log1p(mean / shape) + counts * -math.log1p(shape / mean)
    )  # fmt: skip
    below = np.minimum(np.cumsum(np.exp(logs)), 1.0)
    return 1.0 - float(np.exp(logs[0])), float((below * (1 - below)).sum() / mean)


def gini_of(counts: FloatArray) -> float:
    """Gini coefficient of non-negative counts, zeros included; NaN where all are 0."""
    total = float(counts.sum())
    if total <= 0:
        return math.nan
    ordered = np.sort(counts)
    place = np.arange(1, len(ordered) + 1)
    return float(((2 * place - len(ordered) - 1) * ordered).sum() / (len(ordered) * total))
