"""Shamir's shares, masks and packing against definitions and second implementations."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mmfed.errors import MmfedError
from mmfed.privacy.secure_aggregation.masks import mask
from mmfed.privacy.secure_aggregation.recovery import recover
from mmfed.privacy.secure_aggregation.ring import Ring
from mmfed.privacy.secure_aggregation.shamir import PRIME, interpolate, is_share, join, split


def test_the_field_is_that_of_the_smallest_prime_above_2_to_256() -> None:
    """Fermat to several bases; no smaller candidate passes even one."""
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in (2, 3, 5, 7, 11, 13))
    assert all(pow(3, 2**256 + odd - 1, 2**256 + odd) != 1 for odd in range(1, 297, 2))


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.data())
def test_any_threshold_shares_give_the_secret(secret: bytes, count: int, data) -> None:
    threshold = data.draw(st.integers(1, count))
    shares = dict(enumerate(split(secret, count=count, threshold=threshold), start=1))
    points = data.draw(st.permutations(sorted(shares)))[:threshold]
    assert join({point: shares[point] for point in points}) == secret
    assert all(is_share(share) for share in shares.values())


def test_fewer_shares_fit_every_secret() -> None:
    """One short of the threshold: for any other secret there is a polynomial through the same shares."""
    shares = dict(enumerate(split(bytes(32), count=5, threshold=3), start=1))
    two = {1: shares[1], 2: shares[2]}
    for other in (1, 2**255, 12345):
        third = interpolate({**two, 0: other.to_bytes(33, "big")}, 3).to_bytes(33, "big")
        assert join({**two, 3: third}) == other.to_bytes(32, "big")


def test_one_share_is_uniform() -> None:
    """The top byte of share 1 of the same secret, over fresh splits."""
    tops = [split(bytes(32), count=3, threshold=2)[0][1] for _ in range(4000)]
    assert stats.chisquare(np.bincount(np.array(tops) >> 4, minlength=16)).pvalue > 1e-4


@pytest.mark.parametrize(("secret", "count", "threshold"), [(bytes(31), 3, 2), (bytes(32), 3, 4), (bytes(32), 3, 0)])
def test_a_split_that_makes_no_sense_is_refused(secret: bytes, count: int, threshold: int) -> None:
    with pytest.raises(MmfedError, match="cannot be split"):
        split(secret, count=count, threshold=threshold)


def test_recovery_finds_the_secret_among_wrong_shares_and_names_them() -> None:
    secret = bytes(range(32))
    shares = dict(enumerate(split(secret, count=9, threshold=6), start=1))
    shares[2] = shares[3]
    shares[5] = bytes(33)
    assert recover(shares, 6, lambda found: found == secret) == (secret, (2, 5))
    assert recover({p: s for p, s in shares.items() if p < 6}, 6, lambda found: found == secret) is None
    assert recover(dict(list(shares.items())[:7]), 6, lambda found: found == secret) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 62), st.lists(st.integers(0, 2**62 - 1), min_size=0, max_size=30))
def test_packing_loses_nothing(bits: int, numbers: list[int]) -> None:
    ring = Ring(bits)
    elements = np.array([number % 2**bits for number in numbers], dtype=np.uint64)
    data = ring.pack(elements)
    assert len(data) == ring.size(len(numbers)) == -(-len(numbers) * bits // 8)
    assert int.from_bytes(data, "little") == sum(int(e) << (bits * i) for i, e in enumerate(elements))
    assert np.array_equal(ring.unpack(data, len(numbers)), elements)


def test_a_long_vector_is_packed_in_blocks_alike() -> None:
    ring = Ring(17)
    elements = np.random.default_rng(0).integers(0, 2**17, 200_001).astype(np.uint64)
    assert np.array_equal(ring.unpack(ring.pack(elements), len(elements)), elements)
    with pytest.raises(MmfedError, match="bytes instead of"):
        ring.unpack(ring.pack(elements)[:-1], len(elements))


@pytest.mark.parametrize("bits", [2, 20, 62])
def test_signed_numbers_come_back(bits: int) -> None:
    ring, half = Ring(bits), 1 << (bits - 1)
    values = np.array([-half, -1, 0, 1, half - 1])
    assert np.array_equal(ring.decode(ring.encode(values)), values)
    assert ring.decode(ring.encode(np.array([half])))[0] == -half


@pytest.mark.parametrize("bits", [0, 1, 63, True, 8.0])
def test_a_modulus_that_does_not_fit_is_refused(bits: int) -> None:
    with pytest.raises(MmfedError, match="modulus"):
        Ring(bits)


@pytest.mark.parametrize("bits", [8, 13, 16, 32, 40, 62])
def test_a_mask_is_the_chacha20_stream_of_its_seed(bits: int) -> None:
    seed = bytes(range(32))
    word = 1 if bits <= 8 else 2 if bits <= 16 else 4 if bits <= 32 else 8
    stream = Cipher(algorithms.ChaCha20(seed, bytes(16)), mode=None).encryptor().update(bytes(100 * word))
    expected = [int.from_bytes(stream[i * word : (i + 1) * word], "little") % 2**bits for i in range(100)]
    assert mask(seed, 100, Ring(bits)).tolist() == expected
