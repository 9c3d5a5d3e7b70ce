"""The account of private alternating least squares: noised counts once, then a few releases of one noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmfed.privacy.accounting import GaussianRelease
from mmfed.privacy.calibration import noise_multiplier_for
from mmfed.privacy.units import check_count, check_delta, check_rate


@dataclass(frozen=True, kw_only=True)
class AlsPlan:
    """Noise of a run.

    Unit: one user; adjacency: add/remove one user; everybody takes part in every release.

    Args:
        counts_noise: σ on every popularity count, of sensitivity 1.
        noise_multiplier: σ of every round, relative to its sensitivity.
        rounds: how many.
    """

    counts_noise: float
    noise_multiplier: float
    rounds: int

    def releases(self) -> list[GaussianRelease]:
        """What the accountant sees."""
        full = {"sampling": "full", "sampling_rate": 1.0}
        return [
            GaussianRelease(noise_multiplier=self.counts_noise, **full),
            GaussianRelease(noise_multiplier=self.noise_multiplier, count=self.rounds, **full),
        ]


def plan_als(*, epsilon: float, delta: float, rounds: int, counts_share: float) -> AlsPlan:
    """The noise with which counts and rounds together are (ε, δ)-DP.

    Gaussian releases compose exactly: their squared signal-to-noise ratios add up, and ``counts_share`` of the sum goes
    to the counts, the rest to the rounds in equal parts.

    Raises:
        MmfedError: a parameter is out of range.
    """
    check_count("rounds", rounds)
    check_rate("counts_share", counts_share)
    check_rate("1 - counts_share", 1.0 - counts_share)
    whole = noise_multiplier_for(
        epsilon=epsilon, delta=check_delta(delta), sampling="full", sampling_rate=1.0, rounds=1
    )  # fmt: skip
    return AlsPlan(
        counts_noise=whole / math.sqrt(counts_share),
        noise_multiplier=whole * math.sqrt(rounds / (1.0 - counts_share)),
        rounds=rounds,
    )
