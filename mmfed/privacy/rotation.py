"""A public random rotation that spreads a vector evenly over its coordinates, so that a small modulus holds their sum.

Walsh-Hadamard transform after random signs (Ailon and Chazelle 2006; Kairouz, Liu, Steinke 2021). The signs
are public: they cost no privacy and give none.
"""

from __future__ import annotations

import numpy as np

from mmfed.errors import ExitCode, MmfedError
from mmfed.rng import numpy_generator
from mmfed.types import FloatArray


def padded(dimension: int) -> int:
    """The power of two, 64 at least, that a vector is padded to with zeros."""
    return max(64, 1 << (dimension - 1).bit_length())


def rotate(vector: FloatArray, *, run_id: str, round_number: int) -> FloatArray:
    """[dimension] to [padded(dimension)], norm unchanged."""
    width = padded(len(vector))
    whole = np.zeros(width)
    whole[: len(vector)] = vector
    return _hadamard(whole * _signs(width, run_id, round_number))


def unrotate(rotated: FloatArray, dimension: int, *, run_id: str, round_number: int) -> FloatArray:
    """Inverse of ``rotate``."""
    return (_hadamard(rotated) * _signs(len(rotated), run_id, round_number))[:dimension]


def _signs(width: int, run_id: str, round_number: int) -> FloatArray:
    """[width] of ±1, the same for every party of a round: raw Philox words, which no NumPy version changes."""
    words = numpy_generator(0, "rotation", run_id, round_number).bit_generator.random_raw(width // 64)
    bits = np.unpackbits(np.asarray(words, dtype="<u8").view(np.uint8), bitorder="little")
    return 1.0 - 2.0 * bits


def _hadamard(values: FloatArray) -> FloatArray:
    """The orthonormal transform of a vector whose length is a power of two; its own inverse."""
    width = len(values)
    if width & (width - 1) or not width:
        raise MmfedError(ExitCode.PRIVACY, f"{width} coordinates cannot be rotated.", "pad them to a power of two.")
    half = 1
    while half < width:
        pairs = values.reshape(-1, 2, half)
        values = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1)
        half *= 2
    return values.reshape(width) / np.sqrt(width)
