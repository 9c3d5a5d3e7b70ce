"""The account of Skellam noise, in closed form (Agarwal, Kairouz, Liu 2021, theorem 3.5 and corollary 4.1).

Adding Skellam noise of variance μ to a vector of integers with sensitivities Δ1 (L1) and Δ2 (L2) has Rényi divergence
of order α (an integer above 1) of at most

    α Δ2² / (2 μ) + min(((2 α - 1) Δ2² + 6 Δ1) / (4 μ²), 3 Δ1 / (2 μ)).

No amplification by sampling is claimed: the server sees who takes part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.units import check_count, check_delta, check_positive

_LARGEST_SIGMA = 1e6


@dataclass(frozen=True, kw_only=True)
class SkellamRelease:
    """``count`` identical releases of a sum of bounded integer vectors plus Skellam noise, everyone taking part.

    Args:
        noise_multiplier: σ, standard deviation of the noise in the sum over ``sqrt(l2_squared)``.
        l2_squared: Δ2², largest squared norm of one contribution after rounding.
        l1: Δ1, largest L1 norm of one contribution.
        count: how many times.

    Raises:
        MmfedError: any of them is out of range.
    """

    noise_multiplier: float
    l2_squared: int
    l1: int
    count: int = 1

    def __post_init__(self) -> None:
        check_positive("noise_multiplier", self.noise_multiplier)
        check_count("l2_squared", self.l2_squared)
        check_count("l1", self.l1)
        check_count("count", self.count)
        if self.l1 > self.l2_squared:
            raise MmfedError(
                ExitCode.PRIVACY,
                f"l1 = {self.l1} exceeds l2_squared = {self.l2_squared}: no vector of integers has such norms.",
                "give the bounds of one encoded contribution.",
            )

    @property
    def kind(self) -> tuple[float, ...]:
        """(σ, sampling rate 1, Δ2², Δ1): releases of one kind compose by adding their counts."""
        return (float(self.noise_multiplier), 1.0, float(self.l2_squared), float(self.l1))


def skellam_rdp(order: int, noise_multiplier: float, l2_squared: float, l1: float) -> float:
    """Rényi divergence of an integer order, nats, of one release."""
    variance = noise_multiplier**2 * l2_squared
    second = ((2 * order - 1) * l2_squared + 6 * l1) / (4 * variance**2)
    return order / (2 * noise_multiplier**2) + min(second, 3 * l1 / (2 * variance))


def skellam_noise_for(
    *,
    epsilon: float,
    delta: float,
    l2_squared: int,
    l1: int,
    rounds: int,
    beside: Sequence[SkellamRelease] = (),
) -> float:
    """The smallest noise multiplier σ, to 1e-5 relative, whose ε over ``rounds`` releases is at most ``epsilon``.

    Args:
        beside: releases of other noise that the same ε has to cover.

    Raises:
        MmfedError: a parameter is out of range, or no σ up to 1e6 is enough.
    """
    from mmfed.privacy.accounting import epsilon as account

    check_positive("epsilon", epsilon)
    check_delta(delta)
    one = SkellamRelease(noise_multiplier=1.0, l2_squared=l2_squared, l1=l1, count=rounds)

    def fits(sigma: float) -> bool:
        return account([replace(one, noise_multiplier=sigma), *beside], delta).value <= epsilon * (1 - 1e-6)

    low, high = 1e-3, 1.0
    while not fits(high):
        low, high = high, 2 * high
        if high > _LARGEST_SIGMA:
            raise MmfedError(
                ExitCode.PRIVACY,
                f"epsilon = {epsilon:.6g}: no noise multiplier up to {_LARGEST_SIGMA:g} is enough.",
                "ask for a larger epsilon or delta, or fewer rounds.",
            )
    while high - low > 1e-5 * high:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
