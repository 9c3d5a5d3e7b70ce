"""What noise a promise needs, or what a given noise promises; before any data are touched."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from dp_accounting.pld import privacy_loss_distribution as pld
from scipy import stats

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.accounting import GaussianRelease, Sampling
from mmfed.privacy.accounting import epsilon as account
from mmfed.privacy.calibration import noise_multiplier_for
from mmfed.privacy.units import (
    Mode,
    check_count,
    check_delta,
    check_epsilon,
    check_population,
    check_positive,
    check_rate,
    default_delta,
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A promise and the noise that keeps it.

    Args:
        mode: "user-central" (units are users) or "record" (units are windows on one device).
        population: units that could take part, N.
        cohort: units that take part in one release: planned (user-central) or expected (record).
        releases: rounds (user-central) or DP-SGD steps over all rounds (record).
        sampling, sampling_rate: how units are chosen.
        delta: δ.
        epsilon: ε after all releases, nats.
        noise_multiplier: σ relative to the clip norm.
        deviation_on_mean: where every device adds noise, what is left of it on the mean; None: σ / cohort.
    """

    mode: Mode
    population: int
    cohort: float
    releases: int
    sampling: Sampling
    sampling_rate: float
    delta: float
    epsilon: float
    noise_multiplier: float
    deviation_on_mean: float | None = None

    @property
    def noise_on_mean(self) -> float:
        """Standard deviation of the noise on each coordinate of the mean update, in clip norms."""
        return self.noise_multiplier / self.cohort if self.deviation_on_mean is None else self.deviation_on_mean

    def signal_to_noise(self, parameters: int, *, alignment: float = 1.0) -> float:
        """Norm of the mean update over norm of its noise, for one release.

        Args:
            parameters: trained coordinates.
            alignment: norm of the mean of the clipped updates in clip norms; 1 is the best case (all users agree).
        """
        return alignment / (self.noise_on_mean * math.sqrt(check_count("parameters", parameters)))

    def release(self) -> GaussianRelease:
        """All releases of the plan, as the accountant sees them."""
        return GaussianRelease(
            noise_multiplier=self.noise_multiplier,
            sampling=self.sampling,
            sampling_rate=self.sampling_rate,
            count=self.releases,
        )


def plan(
    *,
    population: int,
    cohort: int | None,
    rounds: int,
    delta: float | None = None,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
) -> Plan:
    """User-central mode: σ from ε, or ε from σ (give exactly one).

    Unit: one user; adjacency: add/remove one user; the server is trusted with the noise.

    Args:
        population: enrolled users, N.
        cohort: planned users a round, Poisson-sampled at cohort / N; None or N: everyone takes part, no sampling.
        rounds: noisy releases of the model.
        delta: None takes N ** -1.1.

    Raises:
        MmfedError: a parameter is out of range, or not exactly one of ε and σ is given.
    """
    check_population(population)
    planned = population if cohort is None else check_count("cohort", cohort)
    if planned > population:
        raise MmfedError(
            ExitCode.PRIVACY, f"cohort = {planned}: larger than the population {population}.",
            "use at most the number of enrolled users.",
        )  # fmt: skip
    sampling: Sampling = "full" if planned == population else "poisson"
    return _plan(
        "user-central", population, planned, sampling, planned / population, rounds, delta, epsilon, noise_multiplier
    )


def plan_record(
    *,
    windows: int,
    sampling_rate: float,
    steps: int,
    delta: float | None = None,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
) -> Plan:
    """Record mode on one device: σ from ε, or ε from σ (give exactly one).

    Unit: one window of interactions; adjacency: zero-out of one window; the server is not trusted.

    Args:
        windows: windows on the device, n.
        sampling_rate: Poisson rate of windows in a step; 1: every window in every step.
        steps: DP-SGD steps over all rounds.
        delta: None takes n ** -1.1.

    Raises:
        MmfedError: a parameter is out of range, or not exactly one of ε and σ is given.
    """
    check_population(windows, name="windows")
    check_rate("sampling_rate", sampling_rate)
    sampling: Sampling = "full" if sampling_rate == 1.0 else "poisson"
    cohort = windows * sampling_rate
    return _plan("record", windows, cohort, sampling, sampling_rate, steps, delta, epsilon, noise_multiplier)


def user_epsilon_of_record_plan(record: Plan) -> float:
    """What a record plan means for the whole person: ε of adding or removing all windows of the device at once.

    Sampled windows of one person add up, so a step is a mixture of Gaussians with Binomial(n, q) sensitivities.
    """
    counts = np.arange(record.population + 1)
    chances = stats.binom.pmf(counts, record.population, record.sampling_rate)
    keep = chances > 0
    sigma, largest = record.noise_multiplier, record.population
    widest = (largest**2 / 2 + 10 * largest * sigma) / sigma**2
    losses = pld.from_mixture_gaussian_mechanism(
        sigma, counts[keep].tolist(), chances[keep].tolist(), value_discretization_interval=max(1e-4, widest / 4e3)
    )
    composed = losses.self_compose(record.releases) if record.releases > 1 else losses
    return max(0.0, float(composed.get_epsilon_for_delta(record.delta)))


def _plan(
    mode: Mode, population: int, cohort: float, sampling: Sampling, rate: float, releases: int,
    delta: float | None, epsilon: float | None, noise_multiplier: float | None,
) -> Plan:  # fmt: skip
    check_count("rounds" if mode == "user-central" else "steps", releases)
    chosen = check_delta(default_delta(population) if delta is None else delta, population=population)
    if (epsilon is None) == (noise_multiplier is None):
        raise MmfedError(
            ExitCode.PRIVACY, f"epsilon = {epsilon!r}, noise_multiplier = {noise_multiplier!r}: give exactly one.",
            "give --epsilon to get the noise, or --noise to get the epsilon.",
        )  # fmt: skip
    if noise_multiplier is not None:
        sigma = float(check_positive("noise_multiplier", noise_multiplier))
    else:
        sigma = noise_multiplier_for(
            epsilon=check_epsilon(float(epsilon or 0.0)), delta=chosen, sampling=sampling, sampling_rate=rate,
            rounds=releases,
        )  # fmt: skip
    release = GaussianRelease(noise_multiplier=sigma, sampling=sampling, sampling_rate=rate, count=releases)
    return Plan(
        mode=mode,
        population=population,
        cohort=cohort,
        releases=releases,
        sampling=sampling,
        sampling_rate=rate,
        delta=chosen,
        epsilon=account([release], chosen).value,
        noise_multiplier=sigma,
    )
