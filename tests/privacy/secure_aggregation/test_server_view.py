"""What the server sees of one device is noise: its masked vector is uniform, whatever the device's vector is."""

from __future__ import annotations

import numpy as np
from scipy import stats
from whole_round import Parties, identities

BITS, LENGTH = 16, 4000
KEYS = identities(4)


def seen(vectors: list[np.ndarray]) -> list[np.ndarray]:
    """[4] the masked vectors as they arrive."""
    parties = Parties.of(KEYS, bits=BITS, length=LENGTH)
    parties.until_answers(dict(zip(parties.devices, vectors, strict=True)), None)
    ring = parties.context.ring
    return [ring.unpack(data, LENGTH) for data in parties.masked.values()]


def uniform_p_values(elements: np.ndarray) -> tuple[float, float]:
    """Kolmogorov-Smirnov over the whole range, and chi-square over the lowest byte."""
    ks = stats.kstest((elements + 0.5) / 2**BITS, "uniform").pvalue
    chi = stats.chisquare(np.bincount(elements.astype(int) & 255, minlength=256)).pvalue
    return float(ks), float(chi)


def updates(kind: str) -> list[np.ndarray]:
    generator = np.random.default_rng(5)
    if kind == "zero":
        return [np.zeros(LENGTH, dtype=np.int64)] * 4
    return [generator.normal(0, 3000, LENGTH).astype(np.int64) for _ in range(4)]


def test_one_masked_vector_is_uniform() -> None:
    """256 p-values of fresh rounds must themselves be uniform: no single test is asked to be lucky."""
    p_values = [
        p for kind in ("zero", "update") for _ in range(16) for v in seen(updates(kind)) for p in uniform_p_values(v)
    ]
    assert min(p_values) > 1e-6
    assert stats.kstest(p_values, "uniform").pvalue > 1e-4


def test_the_same_test_rejects_an_unmasked_vector() -> None:
    """Power: an update in the ring without masks, and one whose masks do not reach the upper half."""
    ring = Parties.of(KEYS, bits=BITS, length=LENGTH).context.ring
    unmasked = ring.encode(updates("update")[0])
    assert min(uniform_p_values(unmasked)) < 1e-12
    half = ring.add(unmasked, np.random.default_rng(1).integers(0, 2 ** (BITS - 1), LENGTH).astype(np.uint64))
    assert min(uniform_p_values(half)) < 1e-12


def test_a_masked_vector_does_not_correlate_with_the_update() -> None:
    vectors = updates("update")
    for masked, vector in zip(seen(vectors), vectors, strict=True):
        assert abs(np.corrcoef(masked.astype(float), vector)[0, 1]) < 5 / np.sqrt(LENGTH)


def test_two_rounds_of_the_same_vectors_share_nothing() -> None:
    """Fresh masks: the difference of two rounds is uniform as well."""
    vectors = updates("update")
    first, second = seen(vectors), seen(vectors)
    ring = Parties.of(KEYS, bits=BITS, length=LENGTH).context.ring
    for one, other in zip(first, second, strict=True):
        assert min(uniform_p_values(ring.subtract(one, other))) > 1e-6


def test_the_sum_of_some_masked_vectors_is_uniform_too() -> None:
    """Three of four: the masks they share with the fourth, and their own, are still on."""
    vectors = seen(updates("update"))
    ring = Parties.of(KEYS, bits=BITS, length=LENGTH).context.ring
    assert min(uniform_p_values(ring.add(ring.add(vectors[0], vectors[1]), vectors[2]))) > 1e-6
