"""Two contracts: constrain sensitivity, and add noise.

Floating point (Mironov 2012; Jin, McMurtry, Rubinstein, Ohrimenko 2022): the low bits of a float64 Gaussian sample
betray which inputs could have produced it. Two things are done about it. A noise sample for real people is the scaled
sum of four independent draws (Holohan and Braghin 2021), and the noised sum is rounded to a grid of about 2^-16 noise
standard deviations: post-processing, so it cannot cost privacy, and the bits that could leak are gone. What remains is
the chance, about 2^-36 a coordinate, that a rounding boundary is crossed by a float64 error; it is not accounted.
"""

from __future__ import annotations

import math
import secrets
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.units import check_count, check_positive
from mmfed.rng import numpy_generator
from mmfed.types import FloatArray

_GRID_BITS = 16
_CHUNK = 1 << 18  # samples at a time: bounds memory, not the result
_DRAWS = 4


def clip_factor(norms: FloatArray | float, clip_norm: float) -> FloatArray:
    """Factors that bring vectors of these L2 norms to at most ``clip_norm``: min(1, C / norm), same shape as ``norms``.

    A zero norm has factor 1. A non-finite norm has factor 0: the caller must also zero the vector itself (0 times
    infinity is not 0), as ``clip`` does.

    Raises:
        MmfedError: the clip norm is not a finite number above 0.
    """
    check_positive("clip_norm", clip_norm)
    values = np.asarray(norms, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        factors = np.where(values > clip_norm, clip_norm / values, 1.0)
    return np.where(np.isfinite(values), factors, 0.0)


def clip(updates: FloatArray, clip_norm: float) -> FloatArray:
    """Whole updates clipped jointly, shape [units, coordinates]; an update with a NaN or infinity counts as zero."""
    values = np.asarray(updates, dtype=np.float64)
    finite = np.isfinite(values).all(axis=1, keepdims=True)
    values = np.where(finite, values, 0.0)
    largest = np.abs(values).max(axis=1, initial=0.0)
    scale = np.where(largest > 0, largest, 1.0)  # keeps squares of huge coordinates from overflowing
    scaled = values / scale[:, None]
    inner = np.sqrt(np.square(scaled).sum(axis=1))
    with np.errstate(over="ignore"):
        over = inner * scale > clip_norm
    return np.where(over[:, None], scaled * (clip_norm / np.where(inner > 0, inner, 1.0))[:, None], values)


class NoiseSource(Protocol):
    """Where standard normal noise comes from."""

    @property
    def name(self) -> str:
        """What the ledger records."""
        ...

    def standard_normal(self, size: int, *, round_number: int, purpose: str) -> FloatArray:
        """``size`` independent N(0, 1) samples, float64."""
        ...


class SeededNoise:
    """Reproducible noise for simulation. Whoever knows the seed can subtract it: it protects nobody."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    @property
    def name(self) -> str:
        return "seeded (simulation only; protects nobody)"

    def standard_normal(self, size: int, *, round_number: int, purpose: str) -> FloatArray:
        """The same samples for the same (seed, round, purpose), whatever was drawn before."""
        return numpy_generator(self._seed, "privacy-noise", purpose, round_number).standard_normal(size)


class SecureNoise:
    """Noise from a ChaCha20 key stream under a fresh 256-bit key of the operating system for every call.

    Box-Muller on 53-bit uniforms; each sample is half the sum of four draws. The key is forgotten on return, so a
    release cannot be drawn again: a resumed run draws, and charges, anew.
    """

    @property
    def name(self) -> str:
        return "csprng (ChaCha20, keyed by the operating system for every release)"

    def standard_normal(self, size: int, *, round_number: int, purpose: str) -> FloatArray:
        """``size`` samples; round and purpose do not enter."""
        del round_number, purpose
        return stream_normals(secrets.token_bytes(32), size)


def stream_normals(key: bytes, size: int) -> FloatArray:
    """Standard normal samples from the ChaCha20 key stream under a 32-byte key that is used for nothing else."""
    cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    samples = np.empty(size)
    for start in range(0, size, _CHUNK):
        width = min(_CHUNK, size - start)
        pairs = width * _DRAWS // 2
        words = np.frombuffer(cipher.update(bytes(16 * pairs)), dtype="<u8").reshape(2, pairs)
        radius = np.sqrt(-2.0 * np.log(((words[0] >> np.uint64(11)) + np.uint64(1)) * 2.0**-53))
        angle = (2.0 * math.pi * 2.0**-53) * (words[1] >> np.uint64(11))
        draws = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)]).reshape(_DRAWS, width)
        samples[start : start + width] = draws.sum(axis=0) / math.sqrt(_DRAWS)
    return samples


def checked_sum(total: FloatArray, *, clip_norm: float, contributors: int | None, round_number: int) -> FloatArray:
    """``total`` in float64, if clipped updates can make it.

    Args:
        contributors: whose norm of ``clip_norm`` each bounds that of ``total``; None: not checked.

    Raises:
        MmfedError: ``total`` is not finite (noise would not hide it), or too large.
    """
    values = np.asarray(total, dtype=np.float64)
    if not np.isfinite(values).all():
        raise MmfedError(
            ExitCode.PRIVACY,
            f"round {round_number}: the sum of updates has NaN or infinite coordinates.",
            "clip every update with privacy.mechanisms.clip, which drops such updates.",
        )
    if contributors is not None and np.linalg.norm(values) > contributors * clip_norm * (1 + 1e-3):
        raise MmfedError(
            ExitCode.PRIVACY,
            f"round {round_number}: the norm of the sum exceeds {contributors} x clip_norm {clip_norm!r}.",
            "updates arrived unclipped; nothing was released. Check the nodes' version and clip norm.",
        )
    return values


def on_grid(noised: FloatArray, scale: float) -> FloatArray:
    """Rounded to a grid of about 2^-16 of the noise's deviation or scale (see the module's docstring)."""
    grid = 2.0 ** (math.floor(math.log2(scale)) - _GRID_BITS)
    return np.round(noised / grid) * grid


class GaussianMechanism:
    """Sum of clipped updates in, noised mean out.

    Guarantee per release: the Gaussian mechanism with noise multiplier σ; unit and adjacency are those of whoever
    clipped (add/remove one user in user-central mode); the party that runs this is trusted with ``total``.
    ``total`` must be discarded at once after use: keeping or publishing it voids the guarantee.
    """

    def __init__(self, *, clip_norm: float, noise_multiplier: float, noise: NoiseSource) -> None:
        self.clip_norm = check_positive("clip_norm", clip_norm)
        self.noise_multiplier = check_positive("noise_multiplier", noise_multiplier)
        self.noise = noise

    @property
    def standard_deviation(self) -> float:
        """Of the noise on the sum, in the units of the update."""
        return self.noise_multiplier * self.clip_norm

    def release(
        self,
        total: FloatArray,
        *,
        planned_cohort: int,
        round_number: int,
        contributors: int | None = None,
        purpose: str = "model",
    ) -> FloatArray:
        """(total + N(0, (σC)²)) / planned cohort, noise on every coordinate; same shape as ``total``, float64.

        Args:
            total: sum of clipped updates, any shape; all zeros for an empty cohort.
            planned_cohort: the public divisor. Never the realised cohort, which is private.
            round_number: addresses seeded noise.
            contributors: when given, the norm of ``total`` is checked against contributors × C.
            purpose: budget line, addresses seeded noise.

        Raises:
            MmfedError: ``total`` is not finite (noise would not hide it), or larger than clipped updates can make it.
        """
        check_count("planned_cohort", planned_cohort)
        values = checked_sum(total, clip_norm=self.clip_norm, contributors=contributors, round_number=round_number)
        samples = self.noise.standard_normal(values.size, round_number=round_number, purpose=purpose)
        noised = values + self.standard_deviation * samples.reshape(values.shape)
        return on_grid(noised, self.standard_deviation) / planned_cohort
