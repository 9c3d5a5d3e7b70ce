"""The noise of the one-shot release: two Gaussian sums of norm-1 contributions that share one budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.accounting import GaussianRelease
from mmfed.privacy.calibration import noise_multiplier_for
from mmfed.privacy.units import check_population, check_rate, default_delta

# Users over the noise of a count. Below the first a co-occurrence drowns, and all goes to popularity (RECIPES: N = 943
# at epsilon 1); up to the second, popularity gets more. Both are public: only N, epsilon and delta enter.
POPULARITY_ALONE, FEW_USERS = 300.0, 600.0


@dataclass(frozen=True, kw_only=True)
class OneShotPlan:
    """What noise the one-shot release gets.

    Unit: one user, everything the user ever did; adjacency: add/remove one user, whose vectors have norm at most 1
    each (replace-one would move each sum by up to √2: its ε is that of noise divided by √2); trust: the server adds
    the noise. Everybody takes part: no amplification is claimed.

    Args:
        popularity_noise: σ on every count Σ_u 1/√T_u.
        cooccurrence_noise: σ on every coordinate of the packed co-occurrence, hence σ on the diagonal of the matrix
            and σ/√2 above it; None: no co-occurrence is asked for.
    """

    popularity_noise: float
    cooccurrence_noise: float | None

    def releases(self) -> dict[str, GaussianRelease]:
        """By name, what the accountant sees of each sum."""
        noises = {"popularity": self.popularity_noise, "cooccurrence": self.cooccurrence_noise}
        return {
            name: GaussianRelease(noise_multiplier=noise, sampling="full", sampling_rate=1.0)
            for name, noise in noises.items()
            if noise is not None
        }


def plan_one_shot(
    *, population: int, epsilon: float, delta: float | None = None, popularity_share: float | None = None
) -> OneShotPlan:
    """The noise that makes popularity and co-occurrence together (ε, δ) for one user.

    Args:
        population: enrolled users, N.
        epsilon: of both sums together, nats.
        delta: None takes N ** -1.1.
        popularity_share: of the squared signal-to-noise ratio μ² of Gaussian DP, which adds up over releases; 1 asks
            for popularity alone; None takes ``default_share``.

    Raises:
        MmfedError: a parameter is out of range.
    """
    check_population(population)
    sigma = noise_multiplier_for(
        epsilon=epsilon,
        delta=default_delta(population) if delta is None else delta,
        sampling="full",
        sampling_rate=1.0,
        rounds=1,
    )
    share = default_share(population, sigma) if popularity_share is None else popularity_share
    check_rate("popularity_share", share)
    return OneShotPlan(
        popularity_noise=sigma / math.sqrt(share),
        cooccurrence_noise=sigma / math.sqrt(1.0 - share) if share < 1.0 else None,
    )


def default_share(population: int, noise: float) -> float:
    """Popularity's share of the budget, from public figures alone: the users and the noise of a single release."""
    signal = population / noise
    if signal < POPULARITY_ALONE:
        return 1.0
    return 0.2 if signal < FEW_USERS else 0.1


def one_shot_epsilon(total: float, share: float, rounds: int) -> float:
    """What of a run's ε the one-shot release gets: all of it where no round follows.

    Raises:
        MmfedError: rounds follow and nothing is left for them.
    """
    if rounds == 0:
        return total
    if share >= 1.0:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"one_shot.epsilon_share = {share:g} leaves nothing for {rounds} rounds.",
            "lower it, or set federation.rounds = 0.",
        )
    return total * share
