"""What noise a device needs that trusts nobody, or what a given noise promises; before any data are touched."""

from __future__ import annotations

from math import ceil, sqrt

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.accounting import GaussianRelease, PureRelease, Release
from mmfed.privacy.accounting import epsilon as account
from mmfed.privacy.local import SENSITIVITY, Law, local_noise_for
from mmfed.privacy.planning import Plan
from mmfed.privacy.units import (
    check_count,
    check_delta,
    check_epsilon,
    check_population,
    check_positive,
    check_rate,
    default_delta,
)


def expected_joins(rounds: int, rate: float, participations: int | None = None) -> int:
    """Rounds that a device's noise is planned for: its cap, or what 99.9 % of the devices stay below when each joins a
    round with probability ``rate``."""
    check_count("rounds", rounds)
    check_rate("rate", rate)
    if participations is not None:
        return min(rounds, check_count("participations", participations))
    return min(rounds, ceil(rate * rounds + 3 * sqrt(rate * (1 - rate) * rounds)))


def local_release(noise_multiplier: float, law: Law, count: int) -> Release:
    """``count`` releases of one device as the accountant sees them: sensitivity 2C, no sampling."""
    relative = check_positive("noise_multiplier", noise_multiplier) / SENSITIVITY
    if law == "laplace":
        return PureRelease(epsilon=1.0 / relative, count=count)
    return GaussianRelease(noise_multiplier=relative, sampling="full", sampling_rate=1.0, count=count)


def plan_local(
    *,
    population: int,
    cohort: int | None,
    rounds: int,
    law: Law = "gaussian",
    participations: int | None = None,
    delta: float | None = None,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
) -> Plan:
    """User-local mode: noise from ε, or ε from noise (give exactly one).

    Unit: one user; adjacency: replace-one; nobody is trusted. No amplification by sampling is claimed.

    Args:
        population: enrolled users, N; only δ and the expected participations depend on it.
        cohort: planned users a round; None: everyone.
        rounds: rounds of the run.
        law: "gaussian" or "laplace".
        participations: rounds a device joins at most; None as ``expected_joins``.
        delta: None takes N ** -1.1.

    Raises:
        MmfedError: a parameter is out of range, or not exactly one of ε and the noise is given.
    """
    check_population(population)
    planned = population if cohort is None else check_count("cohort", cohort)
    if planned > population:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"cohort = {planned}: larger than the population {population}.",
            "use at most the number of enrolled users.",
        )
    chosen = check_delta(default_delta(population) if delta is None else delta, population=population)
    if (epsilon is None) == (noise_multiplier is None):
        raise MmfedError(
            ExitCode.PRIVACY,
            f"epsilon = {epsilon!r}, noise_multiplier = {noise_multiplier!r}: give exactly one.",
            "give --epsilon to get the noise, or --noise-multiplier to get the epsilon.",
        )
    joins = expected_joins(rounds, planned / population, participations)
    if noise_multiplier is None:
        wanted = check_epsilon(float(epsilon or 0.0))
        noise = local_noise_for(epsilon=wanted, delta=chosen, releases=joins, law=law)
    else:
        noise = check_positive("noise_multiplier", noise_multiplier)
    return Plan(
        mode="user-local",
        population=population,
        cohort=planned,
        releases=joins,
        sampling="full",
        sampling_rate=1.0,
        delta=chosen,
        epsilon=account([local_release(noise, law, joins)], chosen).value,
        noise_multiplier=noise,
        deviation_on_mean=noise * (sqrt(2.0) if law == "laplace" else 1.0) / sqrt(planned),
    )
