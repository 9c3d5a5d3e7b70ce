"""A mask: a seed of 256 bits stretched by ChaCha20 into ring elements, uniform to whoever lacks the seed."""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from mmfed.privacy.secure_aggregation.ring import Ring
from mmfed.types import IntArray

SEED_BYTES = 32
_BLOCK = 1 << 20


def mask(seed: bytes, length: int, ring: Ring) -> IntArray:
    """[length] uint64 elements. A seed makes one mask only: it is never used for two rounds or two vectors."""
    word = next(size for size in (1, 2, 4, 8) if ring.bits <= 8 * size)
    cipher = Cipher(algorithms.ChaCha20(seed, bytes(16)), mode=None).encryptor()
    found = np.empty(length, dtype=np.uint64)
    for start in range(0, length, _BLOCK):
        count = min(_BLOCK, length - start)
        found[start : start + count] = np.frombuffer(cipher.update(bytes(count * word)), dtype=f"<u{word}")
    return found & np.uint64((1 << ring.bits) - 1)
