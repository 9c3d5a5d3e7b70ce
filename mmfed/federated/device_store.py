"""Private state of the users on a node: their vectors, kept on disk, never on the wire.

A store remembers the vectors before and after the last round a user took part in, so that a round repeated after a crash
starts from the same state and gives the same update.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmfed.records import storage_faults
from mmfed.types import FloatArray, IntArray


class DeviceStore:
    """Vectors of a fixed set of users in two slots each, as memory-mapped files.

    Args:
        folder: where the files are; created when missing.
        users: how many users the node holds.
        dimensions: width of a vector.
    """

    def __init__(self, folder: Path, *, users: int, dimensions: int) -> None:
        with storage_faults(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._vectors = _open(folder / "vectors.f32", np.float32, (users, 2, dimensions))
            self._rounds = _open(folder / "rounds.i64", np.int64, (users, 2))

    def before(self, users: IntArray, round_number: int) -> FloatArray:
        """[chosen, d] vectors as they were before ``round_number``; zeros for users who have not taken part."""
        slot = self._newest(users, round_number)
        vectors = self._vectors[users, np.maximum(slot, 0)]
        return np.where((slot >= 0)[:, None], vectors, 0.0).astype(np.float32)

    def put(self, users: IntArray, round_number: int, vectors: FloatArray) -> None:
        """Store the vectors after ``round_number``; the state before it stays readable."""
        slot = 1 - np.maximum(self._newest(users, round_number), 0)
        self._rounds[users, slot] = 0  # invalid while the vector is half written
        self._vectors[users, slot] = vectors
        self._rounds[users, slot] = round_number
        self._vectors.flush()
        self._rounds.flush()

    def _newest(self, users: IntArray, round_number: int) -> IntArray:
        """[chosen] slot of the newest state older than the round, -1 where there is none."""
        rounds = np.where(self._rounds[users] < round_number, self._rounds[users], 0)
        newest = rounds.argmax(axis=1)
        return np.where(rounds.max(axis=1, initial=0) > 0, newest, -1)


def _open(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> np.memmap:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not path.exists() or path.stat().st_size != size:
        with open(path, "wb") as file:
            file.truncate(size)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)
