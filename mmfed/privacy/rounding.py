"""From real coordinates to integers whose norm is bounded for certain (Kairouz, Liu, Steinke 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mmfed.types import FloatArray, IntArray

_TRIES = 64  # each succeeds with probability 0.39 at least


def rounded_square(norm: float, dimension: int) -> int:
    """Largest squared norm that a vector of ``norm`` over ``dimension`` coordinates may have after rounding.

    min((c + √d)², c² + d/4 + c + √d/2): the second holds with probability 1 - e^(-1/2) at least and is enforced.
    """
    root = math.sqrt(dimension)
    return math.floor(min((norm + root) ** 2, norm**2 + dimension / 4 + norm + root / 2))


def round_randomly(values: FloatArray, most: int, uniforms: Callable[[int], FloatArray]) -> IntArray:
    """Each coordinate to one of its two neighbours, unbiased, again and again until the squared norm is at most
    ``most``; towards zero, which never lengthens a vector, should that not happen.

    Args:
        values: [coordinates] whose own squared norm is at most ``most``.
        uniforms: gives that many fresh samples in [0, 1).
    """
    below = np.floor(values)
    rest = values - below
    for _ in range(_TRIES):
        found = (below + (uniforms(len(values)) < rest)).astype(np.int64)
        if squared_norm(found) <= most:
            return found
    return np.trunc(values).astype(np.int64)


def squared_norm(values: IntArray) -> int:
    """Exactly."""
    return sum(int(part @ part) for part in np.array_split(np.abs(values), len(values) // (1 << 16) + 1))
