"""Private vectors, plain and sealed: what a repeated or interrupted round finds."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.device_store import DeviceStore
from mmfed.federated.sealed_store import SealedStore
from mmfed.privacy.key_source import key_source
from mmfed.privacy.vault import Vault

USERS, WIDTH = 5, 3


def vectors(seed, count=USERS):
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def plain(folder, users=USERS, width=WIDTH):
    return DeviceStore(folder, users=users, dimensions=width)


def sealed(folder, users=USERS, width=WIDTH):
    state = folder.parent
    return SealedStore(folder, users=users, dimensions=width, vault=Vault(state, key_source(None, state)))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "vectors"


@pytest.fixture(params=[plain, sealed], scope="module")
def opened(request):
    """Opens a store anew, as another process would."""
    return request.param


def test_new_users_start_from_zero(opened, folder):
    assert not opened(folder).before(np.arange(USERS), 1).any()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(st.integers(0, USERS - 1), unique=True), st.integers(1, 3)), max_size=8))
def test_rounds_repeated_any_number_of_times(opened, tmp_path_factory, rounds):
    """Against a dictionary: every repetition starts from the state before the round, also after opening anew."""
    folder = tmp_path_factory.mktemp("state") / "vectors"
    expected = np.zeros((USERS, WIDTH), dtype=np.float32)
    for number, (chosen, repetitions) in enumerate(rounds, start=1):
        users = np.array(chosen, dtype=np.int64)
        for repetition in range(repetitions):
            store = opened(folder)
            np.testing.assert_array_equal(store.before(np.arange(USERS), number), expected)
            after = vectors((number, repetition), len(users))
            store.put(users, number, after)
        expected[users] = after
        np.testing.assert_array_equal(opened(folder).before(np.arange(USERS), number + 1), expected)


class KilledError(Exception):
    """Stands for the death of the process."""


@pytest.mark.parametrize("step", range(6))
def test_killed_between_any_two_writes(folder, step, monkeypatch):
    users = np.array([1, 3])
    opened, store = plain, plain(folder)
    store.put(np.arange(USERS), 1, vectors(1))
    store.put(users, 2, vectors(2, 2))
    before = store.before(users, 5).copy()
    written = 0

    class Dying:
        def __init__(self, inner):
            self._inner = inner

        def __getitem__(self, index):
            return self._inner[index]

        def _count(self):
            nonlocal written
            written += 1
            if written > step:
                raise KilledError

        def __setitem__(self, index, value):
            self._count()
            self._inner[index] = value

        def flush(self):
            self._count()
            self._inner.flush()

    monkeypatch.setattr(store, "_rounds", Dying(store._rounds))
    monkeypatch.setattr(store, "_vectors", Dying(store._vectors))
    with pytest.raises(KilledError):
        store.put(users, 5, vectors(5, 2))
    again = opened(folder)
    np.testing.assert_array_equal(again.before(users, 5), before)
    newest = again.before(users, 6)
    assert np.array_equal(newest, before) or np.array_equal(newest, vectors(5, 2))
    again.put(users, 5, vectors(5, 2))
    np.testing.assert_array_equal(opened(folder).before(users, 6), vectors(5, 2))


def test_other_users_are_never_touched(opened, folder):
    store = opened(folder)
    store.put(np.arange(USERS), 1, vectors(1))
    store.put(np.array([2]), 2, vectors(2, 1))
    rest = np.array([0, 1, 3, 4])
    np.testing.assert_array_equal(store.before(rest, 3), vectors(1)[rest])


def test_many_users(opened, folder):
    count = 200_000
    store = opened(folder, count)
    chosen = np.arange(0, count, 1000)
    store.put(chosen, 1, vectors(1, len(chosen)))
    assert np.array_equal(opened(folder, count).before(chosen, 2), vectors(1, len(chosen)))
    assert not opened(folder, count).before(chosen + 1, 2).any()


def test_killed_before_the_file_had_a_size(opened, folder):
    folder.mkdir(parents=True)
    (folder / "vectors.f32").write_bytes(b"")
    assert not opened(folder).before(np.arange(USERS), 1).any()


def test_another_number_of_users_is_a_fault_and_loses_nothing(opened, folder):
    opened(folder).put(np.arange(USERS), 1, vectors(1))
    with pytest.raises(MmfedError) as fault:
        opened(folder, USERS + 1)
    assert fault.value.code is ExitCode.STORAGE
    np.testing.assert_array_equal(opened(folder).before(np.arange(USERS), 2), vectors(1))


def test_a_full_disk_is_a_fault_and_leaves_no_file(folder, monkeypatch):
    def refuse(descriptor, offset, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(MmfedError) as fault:
            plain(folder)
    assert fault.value.code == ExitCode.STORAGE
    assert "No space left" in fault.value.message
    assert list(folder.iterdir()) == []
    assert not plain(folder).before(np.arange(USERS), 1).any()


def test_the_space_is_taken_at_once(folder):
    """A write into a hole of the file kills the process where the disk has filled up since."""
    DeviceStore(folder, users=1000, dimensions=8)
    taken = (folder / "vectors.f32").stat()
    assert taken.st_blocks * 512 >= taken.st_size == 1000 * 2 * 8 * 4
