"""The device store of a real device: the same state as ``DeviceStore`` keeps, one sealed record a user."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from mmfed.federated.device_store import ROUNDS, VECTORS, DeviceStore, newest_slot, other_users
from mmfed.privacy.key_source import wipe
from mmfed.privacy.vault import Vault
from mmfed.records import storage_faults, sync_folder
from mmfed.types import FloatArray, IntArray


class SealedStore:
    """Vectors of a fixed set of users in two slots each; a user's record is replaced whole.

    What an earlier version left in clear is sealed when the store is opened, and wiped.

    Args:
        folder: under the vault's folder.
        users: how many users the node holds.
        dimensions: width of a vector.

    Raises:
        MmfedError: made for other users or another model; a record is damaged, or another one's.
    """

    def __init__(self, folder: Path, *, users: int, dimensions: int, vault: Vault) -> None:
        self._vault, self._folder, self._dimensions = vault, folder, dimensions
        self._name = folder.relative_to(vault.folder).as_posix()
        self._check_shape({"users": users, "dimensions": dimensions})
        if any(folder.glob(f"{VECTORS}*")) or any(folder.glob(f"{ROUNDS}*")):
            self._adopt(users)

    def before(self, users: IntArray, round_number: int) -> FloatArray:
        """As ``PrivateVectors.before``."""
        rounds, vectors = self._records(users)
        slot = newest_slot(rounds, round_number)
        chosen = vectors[np.arange(len(users)), np.maximum(slot, 0)]
        return np.where((slot >= 0)[:, None], chosen, np.float32(0.0))

    def put(self, users: IntArray, round_number: int, vectors: FloatArray) -> None:
        """As ``PrivateVectors.put``."""
        rounds, held = self._records(users)
        slot = 1 - np.maximum(newest_slot(rounds, round_number), 0)
        rows = np.arange(len(users))
        rounds[rows, slot], held[rows, slot] = round_number, vectors
        self._seal(users, rounds, held)

    def _records(self, users: IntArray) -> tuple[IntArray, FloatArray]:
        """[chosen, 2] rounds and [chosen, 2, d] vectors; zeros for users without a record."""
        rounds = np.zeros((len(users), 2), dtype="<i8")
        vectors = np.zeros((len(users), 2, self._dimensions), dtype="<f4")
        for row, user in enumerate(users.tolist()):
            record = self._vault.read(self._record(user))
            if record is None:
                continue
            if len(record) != rounds[row].nbytes + vectors[row].nbytes:
                raise other_users(
                    self._vault.path(self._record(user)), f"{len(record)} bytes", f"{self._dimensions} dimensions"
                )
            rounds[row] = np.frombuffer(record, "<i8", 2)
            vectors[row] = np.frombuffer(record, "<f4", offset=rounds[row].nbytes).reshape(2, -1)
        return rounds, vectors

    def _seal(self, users: IntArray, rounds: IntArray, vectors: FloatArray) -> None:
        for row, user in enumerate(users.tolist()):
            self._vault.write(self._record(user), rounds[row].tobytes() + vectors[row].tobytes())

    def _record(self, user: int) -> str:
        return f"{self._name}/{user:09d}"

    def _check_shape(self, shape: dict[str, int]) -> None:
        name = f"{self._name}/shape"
        found = json.loads(self._vault.read_or_write(name, lambda: json.dumps(shape).encode()))
        if found != shape:
            told = [", ".join(f"{value} {key}" for key, value in one.items()) for one in (found, shape)]
            raise other_users(self._vault.path(name), told[0], told[1])

    def _adopt(self, users: int) -> None:
        """Seal what stands here in clear, then wipe it; the renaming in between says which of the two a kill broke."""
        rounds_file, done = self._folder / ROUNDS, self._folder / f"{ROUNDS}.sealed-already"
        if rounds_file.exists():
            plain = DeviceStore(self._folder, users=users, dimensions=self._dimensions)
            rounds, vectors = plain.content()
            held = np.flatnonzero(rounds.any(axis=1))
            self._seal(held, rounds[held], vectors[held])
            with storage_faults(rounds_file):
                os.replace(rounds_file, done)
                sync_folder(self._folder)
        wipe(done)
        wipe(self._folder / VECTORS)
