"""Production account of ε: dp-accounting, min(PLD, RDP), for Gaussian releases with or without Poisson sampling; RDP in
closed form where a release is Skellam.

Adjacency is add/remove one unit with sensitivity 1 (σ is relative to the clip norm); zero-out of one unit has the same
dominating pair. Amplification by sampling holds only where mmfed draws the Poisson sample itself.
``privacy.audit.recompute`` is a second code path for the same quantity and imports nothing from here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import dp_accounting
import numpy as np
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant, compute_epsilon

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.pure import composed_epsilon
from mmfed.privacy.skellam import SkellamRelease, skellam_rdp
from mmfed.privacy.units import check_count, check_delta, check_positive, check_rate

Sampling = Literal["poisson", "full"]
Counts = tuple[
    tuple[tuple[float, ...], int], ...
]  # (kind, count), in order of first appearance; kind: (σ, q, …) or (ε0,)

DISCRETISATION = 1e-4
_ORDERS = (*range(2, 33), *range(36, 65, 4), *range(72, 129, 8), 160, 192, 256, 384, 512, 1024)
_SMALLEST_STEPWISE_DELTA = 1e-9  # every convolution moves up to 1e-15 of mass to infinity
_FINE_BINS = 1.5e5
_EXPONENTIAL_LIMIT = 600.0
_MOST_BINS = 2e6  # a composed loss distribution of this size takes about a second; above it the grid is coarsened


@dataclass(frozen=True, kw_only=True)
class GaussianRelease:
    """``count`` identical releases of a sum of clipped contributions plus Gaussian noise.

    Args:
        noise_multiplier: σ relative to the clip norm.
        sampling: "poisson" (each unit takes part independently) or "full" (everyone takes part).
        sampling_rate: Poisson rate in (0, 1]; 1.0 for "full".
        count: how many times.

    Raises:
        MmfedError: any of them is out of range.
    """

    noise_multiplier: float
    sampling: Sampling
    sampling_rate: float
    count: int = 1

    def __post_init__(self) -> None:
        check_positive("noise_multiplier", self.noise_multiplier)
        if self.sampling not in ("poisson", "full"):
            raise MmfedError(ExitCode.PRIVACY, f"sampling = {self.sampling!r}: unknown.", "use 'poisson' or 'full'.")
        check_rate("sampling_rate", self.sampling_rate)
        if self.sampling == "full" and self.sampling_rate != 1.0:
            raise MmfedError(
                ExitCode.PRIVACY,
                f"sampling_rate = {self.sampling_rate!r}: full participation has rate 1.",
                "use 1.0, or sampling 'poisson' if a Poisson sample is really drawn.",
            )
        check_count("count", self.count)

    @property
    def kind(self) -> tuple[float, ...]:
        """(σ, q): releases of one kind compose by adding their counts."""
        return (float(self.noise_multiplier), float(self.sampling_rate))


@dataclass(frozen=True, kw_only=True)
class PureRelease:
    """``count`` identical releases, each (ε0, 0)-differentially private; nothing else of them enters the account.

    Args:
        epsilon: ε0 of one release, nats.
        count: how many times.

    Raises:
        MmfedError: a parameter is out of range.
    """

    epsilon: float
    count: int = 1

    def __post_init__(self) -> None:
        check_positive("epsilon", self.epsilon)
        check_count("count", self.count)

    @property
    def kind(self) -> tuple[float]:
        """(ε0,): no other kind is that short."""
        return (float(self.epsilon),)


Release = GaussianRelease | SkellamRelease | PureRelease


@dataclass(frozen=True)
class EpsilonEstimate:
    """An upper bound on ε.

    Args:
        value: ε, nats.
        method: which account gave the smaller bound.
        discretisation: grid of the privacy loss distribution, nats; 0.0 where the loss distribution is used in closed
            form (full participation only).
    """

    value: float
    method: Literal["pld", "rdp"]
    discretisation: float


def epsilon(releases: Sequence[Release], delta: float, *, discretisation: float | None = None) -> EpsilonEstimate:
    """ε of all releases together at ``delta``: the smaller of PLD and RDP, both upper bounds.

    Identical releases are composed once with their total count. Pure ones compose among themselves as
    ``pure.composed_epsilon`` says; beside others, or of several ε0, their ε0 are added. Any grid gives an upper bound;
    the one used is told.

    Args:
        releases: everything that is to count.
        delta: δ.
        discretisation: grid of the loss distribution, nats. None takes 1e-4, or finer where the loss of one sampled
            release is smaller than that. Coarsened when the loss distribution would not fit in memory.

    Raises:
        MmfedError: δ outside (0, 1).
    """
    check_delta(delta)
    return _mixed(_counts(releases), delta, discretisation, stepwise=False)


class Accountant:
    """ε after every release, cheaply: only kinds of releases (σ, q) and their counts are kept.

    Not a filter: it adds up what it is told. ``budget.Budget`` refuses.
    """

    def __init__(self, delta: float, *, discretisation: float | None = None) -> None:
        self.delta = check_delta(delta)
        self.discretisation = None if discretisation is None else check_positive("discretisation", discretisation)
        self._counts: dict[tuple[float, ...], int] = {}
        self._latest: tuple[Counts, EpsilonEstimate] | None = None

    def add(self, release: Release) -> None:
        """Charge a release."""
        self._counts[release.kind] = self._counts.get(release.kind, 0) + release.count

    def epsilon(self) -> EpsilonEstimate:
        """ε of everything charged so far."""
        return self._of(self._counts)

    def remove(self, release: Release) -> None:
        """Take back a charge that another release now includes."""
        left = self._counts.get(release.kind, 0) - release.count
        if left < 0:
            raise MmfedError(ExitCode.PRIVACY, f"{release}: was never charged.", "charge it first.")
        self._counts = {**self._counts, release.kind: left} if left else _without(self._counts, release.kind)

    def epsilon_after(self, release: Release, *, replacing: Release | None = None) -> EpsilonEstimate:
        """ε as it would be with ``release`` added, in place of ``replacing`` if given; nothing is charged."""
        trial = Accountant(self.delta, discretisation=self.discretisation)
        trial._counts, trial._latest = dict(self._counts), self._latest
        if replacing is not None:
            trial.remove(replacing)
        trial.add(release)
        found = trial.epsilon()
        self._latest = trial._latest
        return found

    def _of(self, counts: dict[tuple[float, ...], int]) -> EpsilonEstimate:
        wanted = tuple(counts.items())
        if self._latest is None or self._latest[0] != wanted:
            stepwise = self.delta >= _SMALLEST_STEPWISE_DELTA
            self._latest = (wanted, _mixed(wanted, self.delta, self.discretisation, stepwise=stepwise))
        return self._latest[1]


def _without(counts: dict[tuple[float, ...], int], kind: tuple[float, ...]) -> dict[tuple[float, ...], int]:
    return {other: count for other, count in counts.items() if other != kind}


def _counts(releases: Iterable[Release]) -> Counts:
    counts: dict[tuple[float, ...], int] = {}
    for release in releases:
        counts[release.kind] = counts.get(release.kind, 0) + release.count
    return tuple(counts.items())


def _mixed(counts: Counts, delta: float, discretisation: float | None, *, stepwise: bool) -> EpsilonEstimate:
    """Pure releases by ``composed_epsilon`` when they are alone and alike; else their ε0 are added to the others' ε."""
    pure = [(kind[0], count) for kind, count in counts if len(kind) == 1]
    if len(pure) == len(counts) == 1:
        value, grid = composed_epsilon(*pure[0], delta)
        return EpsilonEstimate(value, "pld", grid)
    others = tuple(entry for entry in counts if len(entry[0]) > 1)
    rest = _estimate(others, delta, discretisation, stepwise=stepwise)
    if not pure:
        return rest
    return EpsilonEstimate(rest.value + sum(one * count for one, count in pure), rest.method, rest.discretisation)


@lru_cache(maxsize=4096)  # many devices of one run spend in step
def _estimate(counts: Counts, delta: float, discretisation: float | None, *, stepwise: bool) -> EpsilonEstimate:
    if not counts:
        return EpsilonEstimate(0.0, "pld", 0.0)
    if any(len(kind) > 2 for kind, _ in counts):
        return EpsilonEstimate(_rdp_epsilon(counts, delta), "rdp", 0.0)
    if all(rate == 1.0 for (_, rate), _ in counts):  # one Gaussian, whose loss distribution needs no grid
        precision = sum(count / sigma**2 for (sigma, _), count in counts)
        with np.errstate(divide="ignore"):
            value = dp_accounting.get_epsilon_gaussian(1.0 / math.sqrt(precision), delta)
        return EpsilonEstimate(float(value), "pld", 0.0)
    grid = _fine_grid(counts) if discretisation is None else discretisation
    while _span(counts) > _MOST_BINS * grid:
        grid *= 2.0
    by_pld = _pld_epsilon(counts, delta, grid, stepwise=stepwise)
    by_rdp = _rdp_epsilon(counts, delta)
    if math.isnan(by_pld) or by_rdp < by_pld:
        return EpsilonEstimate(by_rdp, "rdp", grid)
    return EpsilonEstimate(by_pld, "pld", grid)


def _fine_grid(counts: Counts) -> float:
    """1e-4, halved while a release's loss is smaller than the grid: rounding to it would multiply the variance."""
    smallest = min(_loss_variance(sigma, rate) for (sigma, rate), _ in counts if rate < 1.0)
    grid, span = DISCRETISATION, _span(counts)
    while 0.8 * math.sqrt(smallest) < grid and span < _FINE_BINS * grid:
        grid /= 2.0
    return grid


def _loss_variance(sigma: float, rate: float) -> float:
    """About the variance of the privacy loss of one release."""
    return min(rate**2 * math.expm1(min(1.0 / sigma**2, 700.0)), 1.0 / sigma**2)


def _span(counts: Counts) -> float:
    """Rough width of the composed privacy loss distribution, nats: sizes arrays, decides nothing else."""
    variance, widest = 0.0, 0.0
    for (sigma, rate), count in counts:
        variance += count * _loss_variance(sigma, rate)
        reach = 10.0 / sigma + 0.5 / sigma**2
        widest = max(widest, reach if reach > 700 else math.log1p(rate * math.expm1(reach)))
    return variance + 20.0 * math.sqrt(variance) + widest


def _pld_epsilon(counts: Counts, delta: float, grid: float, *, stepwise: bool) -> float:
    precision = sum(count / sigma**2 for (sigma, rate), count in counts if rate == 1.0)
    total = _sampled(tuple(entry for entry in counts if entry[0][1] < 1.0), grid, stepwise=stepwise)
    if precision > 0:  # Gaussians without sampling compose to one Gaussian exactly
        full = pld.from_gaussian_mechanism(1.0 / math.sqrt(precision), value_discretization_interval=grid)
        total = full if total is None else total.compose(full)
    if total is None:
        return 0.0
    with np.errstate(over="ignore"):
        value = max(0.0, float(total.get_epsilon_for_delta(delta)))
    return value if value < _EXPONENTIAL_LIMIT else _large_epsilon(total, delta)


def _large_epsilon(total: pld.PrivacyLossDistribution, delta: float) -> float:
    """ε where e^-ε is no longer a normal float and the library's closed form divides by zero: by bisection from above
    on δ(ε), which it computes from differences of losses."""
    low, high = 0.0, 2 * _EXPONENTIAL_LIMIT
    while total.get_delta_for_epsilon(high) > delta:
        low, high = high, 2 * high
        if high > 1e12:  # more mass at infinity than δ
            return math.inf
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if total.get_delta_for_epsilon(middle) > delta else (low, middle)
    return high


def _sampled(counts: Counts, grid: float, *, stepwise: bool) -> pld.PrivacyLossDistribution | None:
    """All Poisson-sampled releases composed, continuing from the longest prefix of kinds composed lately."""
    known = len(counts)
    while known and (counts[:known], grid, stepwise) not in _PREFIXES:
        known -= 1
    total = _PREFIXES.get((counts[:known], grid, stepwise))
    for position in range(known, len(counts)):
        (sigma, rate), count = counts[position]
        part = _power(sigma, rate, grid, count) if stepwise else _at_once(sigma, rate, grid, count)
        total = part if total is None else total.compose(part)
        _PREFIXES[counts[: position + 1], grid, stepwise] = total
        if len(_PREFIXES) > 8:
            del _PREFIXES[next(iter(_PREFIXES))]
    return total


_PREFIXES: dict[tuple[Counts, float, bool], pld.PrivacyLossDistribution] = {}


@lru_cache(maxsize=48)
def _power(sigma: float, rate: float, grid: float, count: int) -> pld.PrivacyLossDistribution:
    """``count`` compositions along the binary digits of the count: the next count costs one convolution, and the result
    depends on the count alone, so a resumed run claims the very same ε."""
    if count == 1:
        return _base(sigma, rate, grid)
    lowest = count & -count
    if lowest == count:
        half = _power(sigma, rate, grid, count // 2)
        return half.compose(half)
    return _power(sigma, rate, grid, count - lowest).compose(_power(sigma, rate, grid, lowest))


@lru_cache(maxsize=8)
def _at_once(sigma: float, rate: float, grid: float, count: int) -> pld.PrivacyLossDistribution:
    base = _base(sigma, rate, grid)
    return base.self_compose(count) if count > 1 else base


@lru_cache(maxsize=16)
def _base(sigma: float, rate: float, grid: float) -> pld.PrivacyLossDistribution:
    return pld.from_gaussian_mechanism(sigma, value_discretization_interval=grid, sampling_prob=rate)


def _rdp_epsilon(counts: Counts, delta: float) -> float:
    total = np.zeros(len(_ORDERS))
    for kind, count in counts:
        total += count * _rdp(*kind)
    return max(0.0, float(compute_epsilon(_ORDERS, total.tolist(), delta)[0]))


@lru_cache(maxsize=4096)
def _rdp(sigma: float, rate: float, *sensitivities: float) -> np.ndarray:
    if sensitivities:
        return np.array([skellam_rdp(order, sigma, *sensitivities) for order in _ORDERS])
    accountant = RdpAccountant(_ORDERS)
    event: dp_accounting.DpEvent = dp_accounting.GaussianDpEvent(sigma)
    accountant.compose(event if rate == 1.0 else dp_accounting.PoissonSampledDpEvent(rate, event))
    return accountant.rdp


def cross_check(releases: Sequence[Release], delta: float) -> dict[str, float | None]:
    """The same ε by other accountants: Opacus RDP and PRV, and the exact Gaussian when nobody was sampled.

    Opacus PRV carries an error allowance of 0.01 and never reads below about that. None: not defined here.
    """
    from opacus.accountants import PRVAccountant, RDPAccountant
    from scipy import optimize, stats

    check_delta(delta)
    if not all(isinstance(release, GaussianRelease) for release in releases):
        raise MmfedError(ExitCode.PRIVACY, "pure or Skellam releases: not defined for these.", "leave them out.")
    history = [(kind[0], kind[1], count) for kind, count in _counts(releases)]
    values: dict[str, float | None] = {"opacus-rdp": 0.0, "opacus-prv": 0.0, "exact": 0.0}
    if not history:
        return values
    for name, kind in (("opacus-rdp", RDPAccountant), ("opacus-prv", PRVAccountant)):
        accountant = kind()
        accountant.history = list(history)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter(
                "ignore"
            )  # "consider expanding the range of alphas": known, the reading stays a bound
            values[name] = float(accountant.get_epsilon(delta=delta))
    values["exact"] = None
    if all(rate == 1.0 for _, rate, _ in history):
        mu = math.sqrt(sum(count / sigma**2 for sigma, _, count in history))

        def excess(bound: float) -> float:
            upper = stats.norm.logsf(bound / mu - mu / 2)
            lower = bound + stats.norm.logsf(bound / mu + mu / 2)
            return float(np.exp(upper) - np.exp(lower)) - delta

        solution = optimize.root_scalar(excess, bracket=(0.0, mu**2 + 50 * mu), xtol=1e-12) if excess(0.0) > 0 else None
        values["exact"] = 0.0 if solution is None else float(solution.root)
    return values
