"""Where the random bits of discrete noise come from."""

from __future__ import annotations

import secrets
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from mmfed.privacy.mechanisms import SecureNoise, SeededNoise
from mmfed.rng import numpy_generator
from mmfed.types import FloatArray, IntArray


class RandomWords(Protocol):
    """A stream of uniform 64-bit words."""

    @property
    def name(self) -> str:
        """What the ledger records."""
        ...

    def words(self, size: int) -> IntArray:
        """The next ``size`` words, uint64."""
        ...


class SeededWords:
    """Reproducible, for simulation. Whoever knows the seed can subtract the noise: it protects nobody."""

    def __init__(self, seed: int, *path: int | str) -> None:
        self._source = numpy_generator(seed, "privacy-noise", *path).bit_generator

    @property
    def name(self) -> str:
        return SeededNoise(0).name

    def words(self, size: int) -> IntArray:
        """The next words of (seed, path)."""
        return np.asarray(self._source.random_raw(size), dtype=np.uint64)


class SecureWords:
    """A ChaCha20 key stream under a fresh 256-bit key of the operating system."""

    def __init__(self) -> None:
        self._cipher = Cipher(algorithms.ChaCha20(secrets.token_bytes(32), bytes(16)), mode=None).encryptor()

    @property
    def name(self) -> str:
        return SecureNoise().name

    def words(self, size: int) -> IntArray:
        """Words that nobody can draw again."""
        return np.frombuffer(self._cipher.update(bytes(8 * size)), dtype="<u8").astype(np.uint64)


def uniforms(source: RandomWords, size: int) -> FloatArray:
    """``size`` samples in [0, 1) of 53 bits."""
    return (source.words(size) >> np.uint64(11)).astype(np.float64) * 2.0**-53
