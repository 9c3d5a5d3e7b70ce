"""Private state of the users on a node: their vectors, kept on disk in clear, never on the wire.

A store remembers the vectors before and after the last round a user took part in, so that a round repeated after a
crash starts from the same state and gives the same update.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np

from mmfed.errors import ExitCode, MmfedError
from mmfed.records import storage_faults
from mmfed.types import FloatArray, IntArray

VECTORS, ROUNDS = "vectors.f32", "rounds.i64"


class PrivateVectors(Protocol):
    """What training asks of a store, sealed or not."""

    def before(self, users: IntArray, round_number: int) -> FloatArray:
        """[chosen, d] vectors as they were before ``round_number``; zeros for users who have not taken part."""
        ...

    def put(self, users: IntArray, round_number: int, vectors: FloatArray) -> None:
        """Store the vectors after ``round_number``; the state before it stays readable."""
        ...


class DeviceStore:
    """Vectors of a fixed set of users in two slots each, as memory-mapped files.

    Args:
        folder: where the files are; created when missing.
        users: how many users the node holds.
        dimensions: width of a vector.
    """

    def __init__(self, folder: Path, *, users: int, dimensions: int) -> None:
        self._folder = folder
        with storage_faults(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._vectors = _open(folder / VECTORS, np.float32, (users, 2, dimensions))
            self._rounds = _open(folder / ROUNDS, np.int64, (users, 2))

    def before(self, users: IntArray, round_number: int) -> FloatArray:
        """As ``PrivateVectors.before``."""
        slot = newest_slot(self._rounds[users], round_number)
        vectors = self._vectors[users, np.maximum(slot, 0)]
        return np.where((slot >= 0)[:, None], vectors, 0.0).astype(np.float32)

    def put(self, users: IntArray, round_number: int, vectors: FloatArray) -> None:
        """As ``PrivateVectors.put``."""
        slot = 1 - np.maximum(newest_slot(self._rounds[users], round_number), 0)
        with storage_faults(self._folder):
            # Each step is on disk before the next: a slot that names a round holds the whole vector of that round.
            self._rounds[users, slot] = 0
            self._rounds.flush()
            self._vectors[users, slot] = vectors
            self._vectors.flush()
            self._rounds[users, slot] = round_number
            self._rounds.flush()

    def content(self) -> tuple[IntArray, FloatArray]:
        """[users, 2] rounds and [users, 2, d] vectors as they are, copied."""
        return np.array(self._rounds), np.array(self._vectors)


def newest_slot(rounds: IntArray, round_number: int) -> IntArray:
    """[chosen] slot of the newest state older than the round, -1 where there is none.

    Args:
        rounds: [chosen, 2] round that each slot holds the state after, 0 for none.
    """
    older = np.where(rounds < round_number, rounds, 0)
    return np.where(older.max(axis=1, initial=0) > 0, older.argmax(axis=1), -1)


def other_users(path: Path, found: str, needed: str) -> MmfedError:
    """The fault of a store that was made for other users or another model."""
    return MmfedError(
        ExitCode.STORAGE,
        f"{path}: holds {found}; {needed} are needed for these users: the node's users or model changed.",
        "bring back the node's data as it was when the run started, or start a new run.",
    )


def _open(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> np.memmap:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    found = path.stat().st_size if path.exists() else 0
    if found == 0:
        _allocate(path, size)
    elif found != size:
        raise other_users(path, f"{found} bytes", str(size))
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)


def _allocate(path: Path, size: int) -> None:
    """A file of zeros whose space is taken at once: on a full disk a write into a hole would kill the process."""
    new = path.with_name(f".{path.name}.new")
    try:
        with open(new, "wb") as file:
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
