"""Integers modulo 2^bits: where vectors are masked and summed, exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfed.privacy.secure_aggregation.refusal import refusal
from mmfed.types import IntArray

MOST_BITS = 62
_BLOCK = 1 << 16  # numbers packed at a time: bounds memory, not the result


@dataclass(frozen=True)
class Ring:
    """The integers modulo 2^bits; elements are uint64 arrays below the modulus.

    Args:
        bits: 2 to 62; a sum of at most 2^(bits - 1) - 1 in absolute value is decoded exactly.
    """

    bits: int

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 2 <= self.bits <= MOST_BITS:
            raise refusal(f"a modulus of {self.bits!r} bits is not between 2 and {MOST_BITS}")

    @property
    def _mask(self) -> np.uint64:
        return np.uint64((1 << self.bits) - 1)

    def encode(self, values: IntArray) -> IntArray:
        """Signed integers as elements; out of range they wrap around."""
        return np.asarray(values, dtype=np.int64).astype(np.uint64) & self._mask

    def decode(self, elements: IntArray) -> IntArray:
        """Elements as the signed integers nearest to zero, int64 in [-2^(bits-1), 2^(bits-1))."""
        values = elements.astype(np.int64)
        return values - ((values >> (self.bits - 1)) << self.bits)

    def add(self, left: IntArray, right: IntArray) -> IntArray:
        """left + right."""
        return (left + right) & self._mask  # both are below 2^62: uint64 holds the sum

    def subtract(self, left: IntArray, right: IntArray) -> IntArray:
        """left - right."""
        with np.errstate(over="ignore"):
            return (left - right) & self._mask

    def size(self, length: int) -> int:
        """Bytes of a packed vector."""
        return (length * self.bits + 7) // 8

    def pack(self, elements: IntArray) -> bytes:
        """Elements as ``size`` bytes, ``bits`` bits each, lowest bit first."""
        shifts = np.arange(self.bits, dtype=np.uint64)
        parts = []
        for start in range(0, len(elements), _BLOCK):  # a block is a whole number of bytes
            bits = (elements[start : start + _BLOCK, None] >> shifts) & np.uint64(1)
            parts.append(np.packbits(bits.astype(np.uint8).ravel(), bitorder="little").tobytes())
        return b"".join(parts)

    def unpack(self, data: bytes, length: int) -> IntArray:
        """Inverse of ``pack``.

        Raises:
            MmfedError: not ``size(length)`` bytes.
        """
        if len(data) != self.size(length):
            raise refusal(f"a masked vector of {len(data)} bytes instead of {self.size(length)}")
        weights = np.uint64(1) << np.arange(self.bits, dtype=np.uint64)
        found = np.empty(length, dtype=np.uint64)
        for start in range(0, length, _BLOCK):
            count = min(_BLOCK, length - start)
            first = start * self.bits // 8
            piece = np.frombuffer(data, np.uint8, (count * self.bits + 7) // 8, first)
            bits = np.unpackbits(piece, count=count * self.bits, bitorder="little").reshape(count, self.bits)
            found[start : start + count] = (bits * weights).sum(axis=1, dtype=np.uint64)
        return found
