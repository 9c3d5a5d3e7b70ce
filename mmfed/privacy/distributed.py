"""Distributed discrete noise (mode ``user-distributed``): what a device adds to its update, and what the sum then says.

A device clips its update, rotates it, scales it to integers, rounds at random under a bounded norm (Kairouz, Liu,
Steinke 2021) and adds its share of Skellam noise (Agarwal, Kairouz, Liu 2021). The shares of any ``minimum`` users
together have the variance that the promise needs; the sum of fewer must never be unmasked.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmfed.privacy.mechanisms import clip
from mmfed.privacy.random_words import RandomWords, uniforms
from mmfed.privacy.rotation import padded, rotate, unrotate
from mmfed.privacy.rounding import round_randomly, rounded_square
from mmfed.privacy.skellam import SkellamRelease
from mmfed.privacy.skellam_noise import UNIT, skellam
from mmfed.privacy.units import check_count, check_positive
from mmfed.types import FloatArray, IntArray

INFLATION = 0.01  # rounding lengthens a clipped update by 1 % at most: the scale is chosen for it
_OVERFLOW = 2.0**-40  # chance that some coordinate of a sum of honest vectors wraps around: costs use, not privacy


@dataclass(frozen=True, kw_only=True)
class DistributedNoise:
    """The public parameters of a run's rounds.

    Args:
        clip_norm: C, largest L2 norm of one user's update.
        noise_multiplier: σ, standard deviation of the noise in the sum of ``minimum`` users over the largest norm of
            one user's rounded contribution.
        dimension: coordinates of an update.
        cohort: users asked in a round.
        minimum: users that must be in the sum.

    Raises:
        MmfedError: any of them is out of range.
    """

    clip_norm: float
    noise_multiplier: float
    dimension: int
    cohort: int
    minimum: int

    def __post_init__(self) -> None:
        check_positive("clip_norm", self.clip_norm)
        check_positive("noise_multiplier", self.noise_multiplier)
        check_count("dimension", self.dimension)
        check_count("minimum survivors", self.minimum)
        check_count("cohort - minimum survivors + 1", self.cohort - self.minimum + 1)

    @property
    def width(self) -> int:
        """Coordinates of an encoded update: the next power of two."""
        return padded(self.dimension)

    @property
    def scale(self) -> float:
        """Integers per unit of the update."""
        return scaled_norm(self.dimension) / self.clip_norm

    @property
    def l2_squared(self) -> int:
        """Largest squared norm of one user's encoded update before noise."""
        return sensitivities(self.dimension)[0]

    @cached_property
    def ticks(self) -> int:
        """Poisson rate of one user's share, in 1/1024, rounded up."""
        variance = self.noise_multiplier**2 * self.l2_squared
        return max(1, math.ceil(UNIT * variance / (2 * self.minimum)))

    @property
    def standard_deviation(self) -> float:
        """Of the noise in the sum of ``minimum`` users, in the units of the update."""
        return self.deviation(self.minimum)

    def deviation(self, users: int) -> float:
        """Of the noise in the sum of so many users, in the units of the update; their rounding adds about 1/6 a
        user and coordinate to its variance in integers, next to nothing."""
        return math.sqrt(2 * self.ticks * users / UNIT) / self.scale

    @property
    def bits(self) -> int:
        """Of the modulus: holds the sum of the whole cohort and its noise."""
        tail = math.log(2 * self.width / _OVERFLOW)
        aligned = self.cohort * scaled_norm(self.dimension)
        signal = min(aligned * math.sqrt(2 * tail / self.width), aligned) + self.cohort
        variance = 2 * self.ticks * self.cohort / UNIT
        noise = tail / 3 + math.sqrt(tail**2 / 9 + 2 * variance * tail)  # Bernstein
        return math.ceil(math.log2(signal + noise + 1)) + 1

    def release(self, count: int = 1) -> SkellamRelease:
        """What the accountant sees."""
        square, l1 = sensitivities(self.dimension)
        return SkellamRelease(noise_multiplier=self.noise_multiplier, l2_squared=square, l1=l1, count=count)

    def terms(self) -> str:
        """All of it as canonical JSON, for the parties of a round to compare."""
        return json.dumps({"mechanism": "skellam", **vars_of(self)}, sort_keys=True)

    def encode(self, update: FloatArray, *, run_id: str, round_number: int, source: RandomWords) -> IntArray:
        """[width] int64: one user's bounded contribution plus its share of the noise."""
        whole = self.bounded(update, run_id=run_id, round_number=round_number, source=source)
        return whole + skellam(self.ticks, self.width, source)

    def bounded(self, update: FloatArray, *, run_id: str, round_number: int, source: RandomWords) -> IntArray:
        """[width] int64 of squared norm ``l2_squared`` at most, not yet private: it must not leave without noise.

        Args:
            update: [dimension]; clipped here, whatever was done before. One that is not finite counts as zero.
        """
        clipped = clip(np.asarray(update, dtype=np.float64)[None], self.clip_norm)[0]
        scaled = rotate(clipped, run_id=run_id, round_number=round_number) * self.scale
        return round_randomly(scaled, self.l2_squared, lambda size: uniforms(source, size))

    def decode(self, total: IntArray, *, run_id: str, round_number: int) -> FloatArray:
        """[dimension] the noised sum of the users' updates, from the sum of their encodings."""
        values = total.astype(np.float64)
        return unrotate(values, self.dimension, run_id=run_id, round_number=round_number) / self.scale


def scaled_norm(dimension: int) -> float:
    """c = scale · C with which ``rounded_square`` is (1 + INFLATION)² c²."""
    width = padded(dimension)
    gain, rest = (1 + INFLATION) ** 2 - 1, width / 4 + math.sqrt(width) / 2
    return (1 + math.sqrt(1 + 4 * gain * rest)) / (2 * gain)


def sensitivities(dimension: int) -> tuple[int, int]:
    """Δ2² and Δ1 of one user's encoded update before noise: they depend on the dimension alone."""
    width = padded(dimension)
    square = rounded_square(scaled_norm(dimension), width)
    return square, min(square, math.floor(math.sqrt(width * square)))


def vars_of(noise: DistributedNoise) -> dict[str, float]:
    """The fields."""
    names = ("clip_norm", "noise_multiplier", "dimension", "cohort", "minimum")
    return {name: getattr(noise, name) for name in names}
