"""What noise a promise needs in mode ``user-distributed``, or what a given noise promises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.accounting import Release
from mmfed.privacy.accounting import epsilon as account
from mmfed.privacy.distributed import DistributedNoise, sensitivities
from mmfed.privacy.planning import Plan
from mmfed.privacy.secure_aggregation.context import least_threshold
from mmfed.privacy.skellam import SkellamRelease, skellam_noise_for
from mmfed.privacy.units import check_count, check_delta, check_epsilon, check_population, check_rate, default_delta

CLIP_NORM = 1.0  # of a plan, which speaks in clip norms


@dataclass(frozen=True, kw_only=True)
class DistributedPlan(Plan):
    """A plan with noise in shares.

    Args:
        noise: parameters of a round, at clip norm 1.
    """

    noise: DistributedNoise

    @property
    def noise_on_mean(self) -> float:
        """As in ``Plan``; here when only the minimum of users survive, which is the least noise there can be."""
        return self.noise.standard_deviation / self.cohort

    @property
    def upload(self) -> int:
        """Bytes of one masked update."""
        return (self.noise.width * self.noise.bits + 7) // 8

    def release(self) -> Release:  # type: ignore[override]
        """All releases of the plan, as the accountant sees them."""
        return self.noise.release(self.releases)


def minimum_cohort(cohort: int, share: float) -> int:
    """Users that must survive of ``cohort``: their share, and more than two thirds."""
    check_rate("minimum_survivors", share)
    return max(math.ceil(share * cohort - 1e-9), least_threshold(cohort) if cohort >= 3 else cohort)


def plan_distributed(
    *,
    population: int,
    cohort: int | None,
    rounds: int,
    parameters: int,
    minimum_survivors: float = 0.8,
    delta: float | None = None,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
) -> DistributedPlan:
    """σ from ε, or ε from σ (give exactly one).

    Unit: one user; adjacency: zero-out of one user; the server is honest but curious. A cohort smaller than the
    population does not lower ε: the server sees who takes part, and one user may take part in every round.

    Args:
        population: enrolled users, N.
        cohort: users asked in a round; None takes everyone.
        rounds: releases.
        parameters: trained coordinates; rounding depends on them.
        minimum_survivors: share of the cohort that must be in a sum.

    Raises:
        MmfedError: a parameter is out of range, or not exactly one of ε and σ is given.
    """
    check_population(population)
    asked = population if cohort is None else min(check_count("cohort", cohort), population)
    check_count("rounds", rounds)
    check_count("parameters", parameters)
    chosen = check_delta(default_delta(population) if delta is None else delta, population=population)
    if (epsilon is None) == (noise_multiplier is None):
        raise MmfedError(
            ExitCode.PRIVACY,
            f"epsilon = {epsilon!r}, noise_multiplier = {noise_multiplier!r}: give exactly one.",
            "give --epsilon to get the noise, or --noise-multiplier to get the epsilon.",
        )
    if noise_multiplier is None:
        noise_multiplier = distributed_noise_multiplier(
            epsilon=check_epsilon(float(epsilon or 0.0)), delta=chosen, parameters=parameters, rounds=rounds
        )
    noise = DistributedNoise(
        clip_norm=CLIP_NORM,
        noise_multiplier=noise_multiplier,
        dimension=parameters,
        cohort=asked,
        minimum=minimum_cohort(asked, minimum_survivors),
    )
    return DistributedPlan(
        mode="user-distributed",
        population=population,
        cohort=asked,
        releases=rounds,
        sampling="full",
        sampling_rate=1.0,
        delta=chosen,
        epsilon=account([noise.release(rounds)], chosen).value,
        noise_multiplier=noise_multiplier,
        noise=noise,
    )


def distributed_noise_multiplier(
    *, epsilon: float, delta: float, parameters: int, rounds: int, beside: Sequence[SkellamRelease] = ()
) -> float:
    """σ of ``rounds`` sums of updates of so many coordinates that together, and with ``beside``, cost at most
    ``epsilon``."""
    square, l1 = sensitivities(parameters)
    return skellam_noise_for(epsilon=epsilon, delta=delta, l2_squared=square, l1=l1, rounds=rounds, beside=beside)
