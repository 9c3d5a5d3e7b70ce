"""Randomness derived statelessly from (seed, round, user, purpose).

Nothing here touches a global generator: the same arguments give the same stream whatever ran
before, on how many workers, or on which backend. These streams are reproducible on purpose and
must not produce noise that protects people outside a simulation (see ``privacy.mechanisms``).
"""

from __future__ import annotations

import hashlib
import operator
from typing import TYPE_CHECKING

import numpy as np

from mmfed.types import FloatArray, IntArray

if TYPE_CHECKING:
    import torch


def derive(seed: int, *path: int | str) -> int:
    """A 64-bit key for ``path`` under ``seed`` (BLAKE2b; parts are length-framed, so no two paths collide by
    concatenation)."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *path):
        # A NumPy integer is the number it holds, not a type of its own.
        encoded = (f"str:{part}" if isinstance(part, str) else f"int:{operator.index(part)}").encode()
        digest.update(len(encoded).to_bytes(4, "little") + encoded)
    return int.from_bytes(digest.digest(), "little")


def numpy_generator(seed: int, *path: int | str) -> np.random.Generator:
    """A NumPy generator (Philox) for ``path`` under ``seed``."""
    return np.random.Generator(np.random.Philox(derive(seed, *path)))


def torch_generator(seed: int, *path: int | str) -> torch.Generator:
    """A CPU torch generator for ``path`` under ``seed``."""
    import torch

    generator = torch.Generator()
    generator.manual_seed(derive(seed, *path) & (2**63 - 1))
    return generator


def user_key(user_id: str) -> int:
    """The 64-bit key that stands for a user in every derived stream and message.

    It depends on the id alone, so a device and a simulation of it draw the same numbers. It is a
    handle, not a pseudonym: anyone who can guess the id can compute it.
    """
    return derive(0, "user", user_id)


def hash_uniform(key: int, rows: IntArray, columns: IntArray) -> FloatArray:
    """Uniforms in [0, 1) addressed by (key, row, column): shape [rows, columns], float64.

    ``columns`` is [columns], alike for all rows, or [rows, columns].

    splitmix64 finaliser (Steele, Lea, Flood 2014), applied twice. A cell's value depends on its own address only, so a
    batch of many users and a single user agree exactly.
    """
    with np.errstate(over="ignore"):
        row_part = _mix(np.asarray(rows, dtype=np.uint64) ^ np.uint64(key))
        cells = _mix(row_part[:, None] + np.asarray(columns, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (cells >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(values: np.ndarray) -> np.ndarray:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
