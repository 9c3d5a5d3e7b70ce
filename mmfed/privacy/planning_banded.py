"""What correlated noise a run needs whose users are not sampled, or what a given noise promises."""

from __future__ import annotations

from math import ceil, sqrt

import numpy as np

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.accounting import GaussianRelease
from mmfed.privacy.accounting import epsilon as account
from mmfed.privacy.banded import MOST_BANDS, banded_coefficients, banded_multiplier, column_norm, prefix_error
from mmfed.privacy.local import analytic_gaussian
from mmfed.privacy.planning import Plan
from mmfed.privacy.units import check_count, check_delta, check_population, check_positive, default_delta


def plan_banded(
    *,
    population: int,
    cohort: int | None,
    rounds: int,
    separation: int,
    participations: int | None = None,
    bands: int | None = None,
    delta: float | None = None,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
) -> Plan:
    """User-ftrl mode: noise from ε, or ε from noise (give exactly one).

    Unit: one user; adjacency: zero-out; the server is trusted with the noise; no claim of sampling.

    Args:
        population: enrolled users, N.
        cohort: planned users a round; None, or more than can be had: as many as the separation leaves.
        rounds: of the run.
        separation: rounds between two participations of a user, at least.
        participations: of a user, at most; None: as many as the separation allows.
        bands: of the factor, at most ``separation``; None: as many.
        delta: None takes N ** -1.1.

    Returns:
        The plan; ``noise_multiplier`` is of the independent draws, ``deviation_on_mean`` of what one round adds to the
        model in the long run: root mean squared error of a prefix sum over √rounds.

    Raises:
        MmfedError: a parameter is out of range, or not exactly one of ε and the noise is given.
    """
    check_population(population)
    apart = min(check_count("separation", separation), check_count("rounds", rounds))
    most = ceil(rounds / apart)
    if participations is not None:
        most = min(most, check_count("participations", participations))
    width = min(apart, MOST_BANDS) if bands is None else check_count("bands", bands)
    if width > apart:
        raise MmfedError(
            ExitCode.PRIVACY, f"bands = {width}: more than the separation {apart}.", "use at most the separation."
        )
    if (epsilon is None) == (noise_multiplier is None):
        raise MmfedError(
            ExitCode.PRIVACY,
            f"epsilon = {epsilon!r}, noise_multiplier = {noise_multiplier!r}: give exactly one.",
            "give --epsilon to get the noise, or --noise-multiplier to get the epsilon.",
        )
    chosen = check_delta(default_delta(population) if delta is None else delta, population=population)
    factor = banded_coefficients(rounds, width)
    if noise_multiplier is None:
        one = analytic_gaussian(epsilon=float(epsilon or 0.0), delta=chosen)
        noise = column_norm(factor) * sqrt(most) * one
    else:
        noise = check_positive("noise_multiplier", noise_multiplier)
    release = GaussianRelease(
        noise_multiplier=banded_multiplier(noise, factor), sampling="full", sampling_rate=1.0, count=most
    )
    steady = max(1.0, min(population / apart, population * most / rounds, float(cohort or np.inf)))
    return Plan(
        mode="user-ftrl",
        population=population,
        cohort=steady,
        releases=most,
        sampling="full",
        sampling_rate=1.0,
        delta=chosen,
        epsilon=account([release], chosen).value,
        noise_multiplier=noise,
        deviation_on_mean=noise / column_norm(factor) * prefix_error(factor, rounds) / sqrt(rounds) / steady,
    )
