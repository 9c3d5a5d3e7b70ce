"""A sealed store: nothing in clear, no record in another's place, a kill at any step, a store in clear taken over."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest

from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.device_store import DeviceStore
from mmfed.federated.sealed_store import SealedStore
from mmfed.privacy.key_source import key_source
from mmfed.privacy.sealing import BrokenSealError
from mmfed.privacy.vault import Vault

USERS, WIDTH = 5, 8
ALL = np.arange(USERS)


def opened(state: Path, users: int = USERS, width: int = WIDTH, folder: str = "run-1/node-0-of-1/vectors"):
    return SealedStore(state / folder, users=users, dimensions=width, vault=Vault(state, key_source(None, state)))


def vectors(seed: int, count: int = USERS) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def pieces(values: np.ndarray) -> list[bytes]:
    """Every pair of neighbouring numbers, as any array on the disk would hold them."""
    return [
        row[start : start + 2].astype(kind).tobytes()
        for kind in ("<f4", ">f4", "<f8", "<f2")
        for row in values
        for start in range(WIDTH - 1)
    ]


def test_no_vector_on_the_disk(tmp_path: Path) -> None:
    store = opened(tmp_path / "sealed")
    plain = DeviceStore(tmp_path / "plain", users=USERS, dimensions=WIDTH)
    for round_number in (1, 2, 3):
        for one in (store, plain):
            one.put(ALL, round_number, vectors(round_number))
    held, clear = on_disk(tmp_path / "sealed"), on_disk(tmp_path / "plain")
    for round_number in (2, 3):
        assert not [piece for piece in pieces(vectors(round_number)) if piece in held]
        assert [piece for piece in pieces(vectors(round_number)) if piece in clear], "the search would find them"


def test_the_same_numbers_as_the_plain_store(tmp_path: Path) -> None:
    """Users chosen at random, rounds repeated and asked for out of order, against the plain store."""
    generator = np.random.default_rng(0)
    store, plain = opened(tmp_path / "state"), DeviceStore(tmp_path / "plain", users=USERS, dimensions=WIDTH)
    for step in range(30):
        round_number = int(generator.integers(1, 8))
        users = generator.permutation(USERS)[: generator.integers(0, USERS + 1)]
        for one in (store, plain):
            one.put(users, round_number, vectors(step, len(users)))
        for asked in range(1, 10):
            found, expected = (one.before(ALL, asked) for one in (store, plain))
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


def test_one_user_s_record_in_another_s_place(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.put(ALL, 1, vectors(1))
    folder = tmp_path / "run-1/node-0-of-1/vectors"
    (folder / "000000001.sealed").write_bytes((folder / "000000002.sealed").read_bytes())
    with pytest.raises(BrokenSealError, match="swapped or renamed"):
        store.before(ALL, 2)
    np.testing.assert_array_equal(store.before(np.array([0, 2, 3, 4]), 2), vectors(1)[[0, 2, 3, 4]])


def test_a_record_of_another_run(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path, folder="run-2/node-0-of-1/vectors")
    first.put(ALL, 1, vectors(1))
    second.put(ALL, 1, vectors(2))
    name = "node-0-of-1/vectors/000000001.sealed"
    (tmp_path / "run-1" / name).write_bytes((tmp_path / "run-2" / name).read_bytes())
    with pytest.raises(BrokenSealError, match="run-2/node-0-of-1/vectors/000000001, not run-1/"):
        first.before(ALL, 2)


def test_every_byte_of_a_record_counts(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.put(ALL, 1, vectors(1))
    path = tmp_path / "run-1/node-0-of-1/vectors/000000003.sealed"
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(BrokenSealError) as caught:
            store.before(np.array([3]), 2)
        assert str(path) in caught.value.message
    path.write_bytes(content)
    np.testing.assert_array_equal(store.before(ALL, 2), vectors(1))


def test_another_width_is_a_fault_and_loses_nothing(tmp_path: Path) -> None:
    opened(tmp_path).put(ALL, 1, vectors(1))
    with pytest.raises(MmfedError, match="holds 5 users, 8 dimensions; 5 users, 9 dimensions are needed") as caught:
        opened(tmp_path, width=9)
    assert caught.value.code is ExitCode.STORAGE
    np.testing.assert_array_equal(opened(tmp_path).before(ALL, 2), vectors(1))


class KilledError(BaseException):
    """Stands for the death of the process."""


def dying(monkeypatch: pytest.MonkeyPatch, name: str, step: int) -> None:
    """The process dies before its ``step``-th call of a function of os."""
    real, calls = getattr(os, name), 0

    def call(*arguments: object, **more: object) -> object:
        nonlocal calls
        calls += 1
        if calls > step:
            raise KilledError
        return real(*arguments, **more)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("name", ["replace", "fsync"])
@pytest.mark.parametrize("step", range(7))
def test_killed_at_any_step_of_a_round(tmp_path: Path, step: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    users = np.array([1, 3])
    store = opened(tmp_path)
    store.put(ALL, 1, vectors(1))
    store.put(users, 2, vectors(2, 2))
    before = store.before(users, 5)
    dying(monkeypatch, name, step)
    killed = False
    try:
        store.put(users, 5, vectors(5, 2))
    except KilledError:
        killed = True
    monkeypatch.undo()
    again = opened(tmp_path)
    np.testing.assert_array_equal(again.before(users, 5), before)
    newest = again.before(users, 6)
    assert all(
        np.array_equal(row, old) or np.array_equal(row, new)
        for row, old, new in zip(newest, before, vectors(5, 2), strict=True)
    )
    assert killed or np.array_equal(newest, vectors(5, 2))
    again.put(users, 5, vectors(5, 2))
    np.testing.assert_array_equal(opened(tmp_path).before(users, 6), vectors(5, 2))


def in_clear(state: Path) -> Path:
    folder = state / "run-1/node-0-of-1/vectors"
    plain = DeviceStore(folder, users=USERS, dimensions=WIDTH)
    plain.put(ALL, 1, vectors(1))
    plain.put(ALL[:3], 2, vectors(2, 3))
    return folder


def check_taken_over(state: Path, folder: Path) -> None:
    store = opened(state)
    np.testing.assert_array_equal(store.before(ALL, 2), vectors(1))
    np.testing.assert_array_equal(store.before(ALL[:3], 3), vectors(2, 3))
    np.testing.assert_array_equal(store.before(ALL[3:], 3), vectors(1)[3:])
    assert {path.suffix for path in folder.iterdir()} == {".sealed"}


def test_a_store_in_clear_is_taken_over_and_wiped(tmp_path: Path) -> None:
    folder = in_clear(tmp_path)
    check_taken_over(tmp_path, folder)
    held = on_disk(tmp_path)
    assert not [piece for piece in pieces(vectors(1)) if piece in held]


@pytest.mark.parametrize("name", ["replace", "fsync", "unlink"])
@pytest.mark.parametrize("step", range(0, 30, 2))
def test_killed_while_taking_over(tmp_path: Path, step: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = in_clear(tmp_path)
    dying(monkeypatch, name, step)
    with contextlib.suppress(KilledError):
        opened(tmp_path)
    monkeypatch.undo()
    check_taken_over(tmp_path, folder)
