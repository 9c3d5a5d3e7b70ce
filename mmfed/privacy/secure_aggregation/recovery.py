"""A secret from shares of which some may be wrong."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping

from mmfed.privacy.secure_aggregation.shamir import interpolate, join

_ATTEMPTS = 300  # finds the secret among 4 wrong shares of 30 with threshold 21 but once in 30 times; fewer, surely


def recover(
    shares: Mapping[int, bytes], threshold: int, holds: Callable[[bytes], bool]
) -> tuple[bytes, tuple[int, ...]] | None:
    """The secret for which ``holds`` is true, and the points whose shares are not of it.

    The wrong points are looked for only when the first ``threshold`` shares do not give the secret. None: no secret
    was found; too few shares, or too many wrong ones.
    """
    if len(shares) < threshold:
        return None
    for attempt, points in enumerate(_choices(sorted(shares), threshold)):
        chosen = {point: shares[point] for point in points}
        secret = join(chosen)
        if secret is None or not holds(secret):
            continue
        if attempt == 0:
            return secret, ()
        wrong = [point for point in shares if interpolate(chosen, point) != int.from_bytes(shares[point], "big")]
        return secret, tuple(sorted(wrong))
    return None


def _choices(points: list[int], threshold: int) -> Iterator[list[int]]:
    yield points[:threshold]
    if len(points) > threshold:
        source = secrets.SystemRandom()
        for _ in range(_ATTEMPTS):
            yield sorted(source.sample(points, threshold))
