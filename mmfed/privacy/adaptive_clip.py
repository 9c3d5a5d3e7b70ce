"""Adaptive clipping (Andrew, Thakkar, McMahan, Ramaswamy 2021, algorithm 1): the clip norm follows a quantile.

Every user of the cohort says one bit, whether the own update was within the clip norm C. The noised share of those
users moves C by a factor, towards the norm that the wanted share is within. The bits are counted as ±1/2, so that
adding or removing a user moves their sum by 1/2.

Unit: one user; adjacency: add/remove one user; the server is trusted with the bits, as it is with the updates. The bits
and the updates of a round are of the **same** sample of users: together they are one Gaussian release, sampled once, of
multiplier (σ⁻² + σ_b⁻²)^-1/2. Accounting the two as if each had a sample of its own would claim too little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.mechanisms import NoiseSource
from mmfed.privacy.units import check_count, check_positive, check_rate

BIT_NORM = 0.5  # a user's bit, counted as ±1/2
PURPOSE = "statistics"
_FURTHEST = 1e4  # the clip norm stays within this factor of the first one


def joined(first: float, second: float) -> float:
    """Noise multiplier of two Gaussian releases of the same units seen as one."""
    return 1.0 / math.sqrt(check_positive("first", first) ** -2 + check_positive("second", second) ** -2)


@dataclass(frozen=True, kw_only=True)
class SharedNoise:
    """How the noise of a round is divided between the update and the bits.

    Args:
        update: σ of the sum of updates, relative to the clip norm.
        bits: standard deviation of the noise on the number of users within the clip norm.
    """

    update: float
    bits: float

    @property
    def bits_multiplier(self) -> float:
        """σ of the bits, relative to their sensitivity."""
        return self.bits / BIT_NORM


def shared_noise(joint: float, *, planned_cohort: int, bits: float | None = None) -> SharedNoise:
    """Divide a joint noise multiplier.

    Args:
        joint: noise multiplier of both releases together: what ε is planned with.
        planned_cohort: expected users a round.
        bits: standard deviation on the count; None takes a twentieth of the cohort as the paper does, but at least
            ``joint``, which leaves the update's noise 15 % larger than without adaptive clipping.

    Raises:
        MmfedError: the bits alone would spend more than both may.
    """
    check_positive("joint", joint)
    chosen = max(check_count("planned_cohort", planned_cohort) / 20.0, joint) if bits is None else bits
    relative = check_positive("quantile_noise", chosen) / BIT_NORM
    if relative <= joint:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"privacy.quantile_noise = {chosen:g}: the quantile alone would spend more than the whole budget.",
            f"use more than {joint * BIT_NORM:.4g}, or leave it out.",
        )
    return SharedNoise(update=1.0 / math.sqrt(joint**-2 - relative**-2), bits=chosen)


class AdaptiveClip:
    """The clip norm of a run, moved after every round.

    Args:
        clip_norm: C of the first round.
        quantile: share of the users that C should be within.
        rate: how fast C moves, in the exponent.
        bits: standard deviation of the noise on the count.
        noise: where it comes from.
    """

    def __init__(self, *, clip_norm: float, quantile: float, rate: float, bits: float, noise: NoiseSource) -> None:
        self.first = check_positive("clip_norm", clip_norm)
        self.quantile = check_rate("clip_quantile", quantile)
        self.rate = check_positive("clip_rate", rate)
        self.bits = check_positive("quantile_noise", bits)
        self.noise = noise

    def share(self, within: int, *, realised: int, planned_cohort: int, round_number: int) -> float:
        """The noised share of users whose update was within the clip norm; may lie outside [0, 1].

        Args:
            within: users within, of the ``realised`` in the sum.
            planned_cohort: the public divisor.

        Raises:
            MmfedError: more users within than there are.
        """
        check_count("planned_cohort", planned_cohort)
        if not 0 <= within <= realised:
            raise MmfedError(
                ExitCode.PRIVACY, f"{within} users within the clip norm, of {realised}.", "check the nodes' version."
            )
        total = within - BIT_NORM * realised
        sample = float(self.noise.standard_normal(1, round_number=round_number, purpose=PURPOSE)[0])
        grid = 2.0 ** (math.floor(math.log2(self.bits)) - 16)  # as in ``mechanisms``: no low bits of the sample
        noised = round((total + self.bits * sample) / grid) * grid
        return noised / planned_cohort + BIT_NORM

    def moved(self, clip_norm: float, share: float) -> float:
        """The next clip norm: C · exp(-rate · (share - quantile)), never further than 10⁴ from the first."""
        step = max(-1.0, min(2.0, share)) - self.quantile
        return min(max(clip_norm * math.exp(-self.rate * step), self.first / _FURTHEST), self.first * _FURTHEST)
