"""Shamir's secret sharing of 256-bit secrets: any ``threshold`` shares give the secret, fewer give nothing.

The field is that of the smallest prime above 2^256, so every secret is an element and there may be as many shares as
devices.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import lru_cache

from mmfed.privacy.secure_aggregation.refusal import refusal

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33


def split(secret: bytes, *, count: int, threshold: int) -> list[bytes]:
    """Shares 1 to ``count`` of a 32-byte secret, 33 bytes each.

    Raises:
        MmfedError: the secret is not of 32 bytes, or the threshold not in 1 to ``count``.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= count:
        raise refusal(f"{len(secret)} bytes cannot be split into {count} shares with threshold {threshold}")
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return [_value(coefficients, point).to_bytes(SHARE_BYTES, "big") for point in range(1, count + 1)]


def join(shares: Mapping[int, bytes]) -> bytes | None:
    """The secret from ``threshold`` shares by point; None when they are not shares of any 32-byte secret."""
    value = interpolate(shares, 0)
    return value.to_bytes(SECRET_BYTES, "big") if value < 2**256 else None


def is_share(share: bytes) -> bool:
    """Whether these bytes are an element of the field."""
    return len(share) == SHARE_BYTES and int.from_bytes(share, "big") < PRIME


def interpolate(shares: Mapping[int, bytes], at: int) -> int:
    """The value at ``at`` of the polynomial of least degree through the shares (Lagrange)."""
    points = tuple(sorted(shares))
    weights = _weights(points, at)
    return sum(w * int.from_bytes(shares[p], "big") for p, w in zip(points, weights, strict=True)) % PRIME


@lru_cache(maxsize=8)  # the secrets of a round are mostly joined from shares of the same parties
def _weights(points: tuple[int, ...], at: int) -> tuple[int, ...]:
    weights = []
    for point in points:
        top = bottom = 1
        for other in points:
            if other != point:
                top = top * (at - other) % PRIME
                bottom = bottom * (point - other) % PRIME
        weights.append(top * pow(bottom, -1, PRIME) % PRIME)
    return tuple(weights)


def _value(coefficients: list[int], point: int) -> int:
    total = 0
    for coefficient in reversed(coefficients):
        total = (total * point + coefficient) % PRIME
    return total
