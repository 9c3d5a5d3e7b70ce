"""The sum is exact, whoever drops out when; and below the threshold nothing is released."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whole_round import STEPS, Parties, identities, random_vectors

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.secure_aggregation.context import least_threshold
from mmfed.privacy.secure_aggregation.device import Device
from mmfed.privacy.secure_aggregation.roster import Roster

KEYS = identities(7)  # threshold 5


def expected(parties: Parties, vectors: dict[bytes, np.ndarray], gone: set[int]) -> np.ndarray:
    return sum(vectors[party] for place, party in enumerate(parties.devices) if place not in gone)  # type: ignore


def test_the_sum_of_all_is_exact() -> None:
    parties = Parties.of(KEYS)
    vectors = random_vectors(parties)
    assert np.array_equal(parties.run(vectors), expected(parties, vectors, set()))
    assert parties.coordinator.users == 7
    assert not parties.coordinator.refused


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("gone", [(0,), (6,), (2, 5)])
def test_the_sum_of_the_survivors_is_exact_when_parties_drop_out(step: str, gone: tuple[int, ...]) -> None:
    """Who drops out before the masked vector is sent is not in the sum; who drops out after it is."""
    parties = Parties.of(KEYS)
    vectors = random_vectors(parties)
    missing = set(gone) if step in ("advertise", "share", "mask") else set()
    assert np.array_equal(parties.run(vectors, {step: gone}), expected(parties, vectors, missing))
    assert len(parties.coordinator.dropped) == (len(gone) if step == "mask" else 0)


def test_parties_may_drop_out_at_different_steps() -> None:
    parties = Parties.of(identities(10))
    vectors = random_vectors(parties)
    drop = {"share": (1,), "mask": (8,), "answer": (3,)}
    assert np.array_equal(parties.run(vectors, drop), expected(parties, vectors, {1, 8}))


@pytest.mark.parametrize("step", STEPS)
def test_below_the_threshold_the_round_is_given_up(step: str) -> None:
    parties = Parties.of(KEYS)
    with pytest.raises(MmfedError, match="nothing was released") as fault:
        parties.run(random_vectors(parties), {step: (0, 3, 4)})
    assert fault.value.code == ExitCode.FEDERATION


def test_too_few_users_are_too_few_though_enough_parties_survive() -> None:
    """Noise is sized for ``minimum_users``."""
    users = (1, 1, 1, 1, 1, 1, 10)
    parties = Parties.of(KEYS, users=users, minimum_users=8)
    with pytest.raises(MmfedError, match="6 parties"):
        parties.run(random_vectors(parties), {"mask": (6,)})
    parties = Parties.of(KEYS, users=users, minimum_users=8)
    vectors = random_vectors(parties)
    assert np.array_equal(parties.run(vectors, {"mask": (0, 1)}), expected(parties, vectors, {0, 1}))
    assert parties.coordinator.users == 14


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 62), st.integers(1, 40), st.integers(0, 2**32))
def test_the_sum_is_exact_in_the_ring_of_any_size(bits: int, length: int, seed: int) -> None:
    """Sums that do not fit wrap around modulo 2^bits, and lose nothing else."""
    parties = Parties.of(KEYS[:4], bits=bits, length=length)
    vectors = random_vectors(parties, seed, reach=2 ** min(bits - 1, 60))
    found = parties.run(vectors, {"mask": (seed % 4,)})
    whole = expected(parties, vectors, {seed % 4})
    half = 1 << (bits - 1)
    assert [int(value) for value in found] == [(int(value) + half) % (2 * half) - half for value in whole]


def test_every_step_may_be_taken_by_another_process() -> None:
    """A device is its bytes: a Flower client starts a process for every message."""
    parties = Parties.of(KEYS[:3], length=20)
    roster = Roster.of(parties.context.parties)
    identity = dict(zip(parties.context.parties, KEYS[:3], strict=True))

    class Restarted(dict[bytes, Device]):
        def __getitem__(self, party: bytes) -> Device:
            held = super().__getitem__(party)
            again = Device.from_bytes(held.to_bytes(), identity[party], roster)
            self[party] = again
            return again

    parties.devices = Restarted(parties.devices)
    vectors = random_vectors(parties)
    assert np.array_equal(parties.run(vectors), expected(parties, vectors, set()))


def test_a_device_forgets_its_secrets() -> None:
    parties = Parties.of(KEYS[:3], length=20)
    parties.run(random_vectors(parties))
    for device in parties.devices.values():
        assert device.stage == "done"
        assert len(device.to_bytes()) < 1000


@pytest.mark.parametrize(("parties", "threshold"), [(3, 3), (4, 3), (6, 5), (7, 5), (9, 7), (100, 67)])
def test_the_least_threshold_is_above_two_thirds(parties: int, threshold: int) -> None:
    assert least_threshold(parties) == threshold


def test_the_users_in_the_sum_count_and_not_those_who_take_the_masks_off() -> None:
    """Seven of seven are in the sum; five of them are enough to unmask it."""
    parties = Parties.of(KEYS, minimum_users=7)
    vectors = random_vectors(parties)
    assert np.array_equal(parties.run(vectors, {"answer": (0, 1)}), expected(parties, vectors, set()))
    parties = Parties.of(KEYS, minimum_users=7)
    with pytest.raises(MmfedError, match="7 users are needed"):
        parties.run(random_vectors(parties), {"mask": (0,)})
