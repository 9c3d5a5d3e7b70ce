"""Private state of the users on a node: their vectors, kept on disk, never on the wire.

A store remembers the vectors before and after the last round a user took part in, so that a round repeated after a
crash starts from the same state and gives the same update.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmfed.errors import ExitCode, MmfedError
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
        # Each step is on disk before the next: a slot that names a round holds the whole vector of that round.
        self._rounds[users, slot] = 0
        self._rounds.flush()
        self._vectors[users, slot] = vectors
        self._vectors.flush()
        self._rounds[users, slot] = round_number
        self._rounds.flush()

    def _newest(self, users: IntArray, round_number: int) -> IntArray:
        """[chosen] slot of the newest state older than the round, -1 where there is none."""
        rounds = np.where(self._rounds[users] < round_number, self._rounds[users], 0)
        newest = rounds.argmax(axis=1)
        return np.where(rounds.max(axis=1, initial=0) > 0, newest, -1)


def _open(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> np.memmap:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    found = path.stat().st_size if path.exists() else 0
    if found == 0:  # absent, or the process died before it had a size
        with open(path, "wb") as file:
            file.truncate(size)
    elif found != size:
        raise MmfedError(
            ExitCode.STORAGE,
            f"{path}: holds {found} bytes, {size} are needed for these users: the node's users or model changed.",
            "bring back the node's data as it was when the run started, or start a new run.",
        )
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)
