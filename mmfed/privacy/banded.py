"""Correlated noise by banded matrix factorisation (Choquette-Choo et al. 2023, "(Amplified) Banded Matrix
Factorization").

The coordinator releases, round by round, A x + A C⁻¹ z: x [rounds] are the sums of clipped updates, A adds them up to
the model, z is independent Gaussian noise. Released is a function of C x + z, so what counts is how far one user can
move C x. C is lower triangular, Toeplitz, with ``bands`` non-zero diagonals c_0 … c_{bands-1}. A user who takes part at
most k times, at least b ≥ bands rounds apart, moves disjoint sets of rows, so the sensitivity is at most √k · ‖c‖ times
the clip norm: the whole run is **one** Gaussian release. After t rounds a user took part at most min(k, ⌈t / b⌉) times;
that is what is charged by then.

Unit: one user; adjacency: zero-out (add/remove one user's updates); the server is trusted with the noise; nothing is
claimed of how users are sampled. The coefficients minimise the mean squared error of all prefix sums for that
sensitivity (McKenna 2024, "Scaling up the Banded Matrix Factorization Mechanism"), from the banded square root (Kalinin
and Lampert 2024) as start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, signal

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.units import check_count, check_positive
from mmfed.types import FloatArray

MOST_BANDS = 256


@dataclass(frozen=True, kw_only=True)
class Participation:
    """How often, and how far apart, one user takes part in a run.

    Args:
        separation: b: rounds from one participation to the next, at least.
        most: k: participations in the run, at most.
    """

    separation: int
    most: int

    def __post_init__(self) -> None:
        check_count("minimum_separation", self.separation)
        check_count("participations", self.most)

    def by(self, round_number: int) -> int:
        """Participations of one user in rounds 1 … ``round_number``, at most."""
        return min(self.most, math.ceil(check_count("round", round_number) / self.separation))


def column_norm(coefficients: tuple[float, ...]) -> float:
    """‖c‖: how far one participation of clip norm 1 moves C x. Later columns are cut at the last round, and shorter."""
    return math.sqrt(sum(one * one for one in coefficients))


@lru_cache(maxsize=64)
def banded_coefficients(rounds: int, bands: int) -> tuple[float, ...]:
    """c_0 = 1, c_1, … of the factor with the smallest mean squared error of all prefix sums over ``rounds``.

    Raises:
        MmfedError: more bands than rounds, or too many to store.
    """
    check_count("rounds", rounds)
    if check_count("bands", bands) > min(rounds, MOST_BANDS):
        raise MmfedError(
            ExitCode.PRIVACY,
            f"bands = {bands}: more than the {rounds} rounds, or than {MOST_BANDS}.",
            "use fewer bands; each keeps one past draw of noise.",
        )
    if bands == 1:
        return (1.0,)
    start = square_root_coefficients(bands)[1:]
    weights = np.arange(rounds, 0, -1.0)
    ones = np.ones(rounds)

    def loss(tail: FloatArray) -> tuple[float, FloatArray]:
        """log ‖c‖² + log ‖A C⁻¹‖², and its gradient; A C⁻¹ is Toeplitz with the coefficients of 1 / ((1 - x) c(x))."""
        c = np.concatenate([[1.0], tail])
        with np.errstate(over="ignore", invalid="ignore"):
            factor = np.asarray(signal.lfilter([1.0], c, ones))
            size, error = float(c @ c), float(weights @ np.square(factor))
            if not math.isfinite(error):
                return 1e300, np.zeros_like(tail)
            moved = np.asarray(signal.lfilter([1.0], c, factor))
        weighted = weights * factor
        slopes = np.array([-2.0 * float(weighted[j:] @ moved[: rounds - j]) for j in range(1, bands)])
        return math.log(size) + math.log(error), 2.0 * tail / size + slopes / error

    found = optimize.minimize(loss, np.array(start), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    best = found.x if found.fun <= loss(np.array(start))[0] else np.array(start)
    return (1.0, *(float(one) for one in best))


def square_root_coefficients(bands: int) -> tuple[float, ...]:
    """First coefficients of (1 - x)^-1/2: the banded square root of the prefix sums."""
    values = [1.0]
    for j in range(1, check_count("bands", bands)):
        values.append(values[-1] * (2 * j - 1) / (2 * j))
    return tuple(values)


def prefix_error(coefficients: tuple[float, ...], rounds: int) -> float:
    """Root mean squared error of a prefix sum, per unit of noise on C x and of ‖c‖: what the factor is chosen by."""
    factor = np.asarray(signal.lfilter([1.0], np.array(coefficients), np.ones(rounds)))
    squared = float(np.arange(rounds, 0, -1.0) @ np.square(factor)) / rounds
    return column_norm(coefficients) * math.sqrt(squared)


class CorrelatedNoise:
    """The noise rows y = C⁻¹ z, one after the other, from at most ``bands - 1`` past rows.

    y_t = z_t - Σ_{j ≥ 1} c_j y_{t-j}, with c_0 = 1.

    Args:
        coefficients: of C, c_0 = 1.
    """

    def __init__(self, coefficients: tuple[float, ...]) -> None:
        if not coefficients or coefficients[0] != 1.0 or not all(math.isfinite(one) for one in coefficients):
            raise MmfedError(ExitCode.PRIVACY, "coefficients: the first is not 1, or one is not finite.", "scale them.")
        self.coefficients = coefficients
        self._past: list[FloatArray] = []

    def row(self, fresh: FloatArray) -> FloatArray:
        """What the next row would be with this independent draw, same shape; ``keep`` makes it so."""
        row = np.array(fresh, dtype=np.float64)
        for past, coefficient in zip(self._past, self.coefficients[1:], strict=False):
            row -= coefficient * past
        return row

    def keep(self, row: FloatArray) -> None:
        """The row was released: later ones depend on it."""
        self._past = [row, *self._past][: len(self.coefficients) - 1]


def banded_multiplier(noise_multiplier: float, coefficients: tuple[float, ...]) -> float:
    """Noise multiplier of one participation, given the standard deviation of z relative to the clip norm."""
    return check_positive("noise_multiplier", noise_multiplier) / column_norm(coefficients)
