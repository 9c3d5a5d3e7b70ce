"""Interactions as memory-mapped files: written user by user, opened without being read into memory."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, overload

import numpy as np

from mmfed.data.schema import Interactions
from mmfed.errors import ExitCode, MmfedError
from mmfed.records import sha256_file
from mmfed.rng import user_key
from mmfed.types import IntArray

COLUMNS = {"items": "<i4", "times": "<i8", "actions": "<i1", "values": "<f4"}
OFFSETS, IDS, ENDS, KEYS = "indptr.i8", "ids.utf8", "ids.i8", "keys.u8"
Record = dict[str, list[object]]  # file name: bytes, SHA-256


class StoredIds(Sequence[str]):
    """User ids in one file of UTF-8 and one of offsets.

    Args:
        text: memory-mapped bytes of all ids, one after another.
        ends: [ids + 1] int64 offsets into ``text``.
        keys: [ids] uint64 ``rng.user_key`` of every id.
    """

    def __init__(self, text: np.ndarray, ends: IntArray, keys: IntArray) -> None:
        self._text, self._ends, self.keys = text, ends, keys

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> StoredIds: ...
    def __getitem__(self, index: int | slice) -> str | StoredIds:
        if isinstance(index, slice):
            first, last, step = index.indices(len(self))
            if step != 1:
                raise ValueError("only whole ranges of ids can be taken")
            last = max(first, last)
            return StoredIds(self._text, self._ends[first : last + 1], self.keys[first:last])
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"user {index} of {len(self)}")
        return bytes(self._text[self._ends[place] : self._ends[place + 1]]).decode("utf-8")

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 1 << 16):
            ends = self._ends[start : start + (1 << 16) + 1]
            text, base = bytes(self._text[ends[0] : ends[-1]]), int(ends[0])
            edges = (ends - base).tolist()
            yield from (text[a:b].decode("utf-8") for a, b in itertools.pairwise(edges))


class _HashedFile:
    """A new file that knows its length and hash."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = open(path, "xb")  # noqa: SIM115 - closed by ``finish``
        self._hash, self._bytes, self.name = hashlib.sha256(), 0, path.name

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._bytes += len(data)

    def finish(self) -> list[object]:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return [self._bytes, self._hash.hexdigest()]

    def close(self) -> None:
        self._file.close()


class InteractionWriter:
    """Writes interactions of successive users into a folder; memory does not grow with them.

    Args:
        folder: new; nobody else writes there.
        ids: whether user ids and keys are written as well.
    """

    def __init__(self, folder: Path, *, ids: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        names = [OFFSETS, *COLUMNS, *((IDS, ENDS, KEYS) if ids else ())]
        self._files = {name: _HashedFile(folder / name) for name in names}
        self._ids, self._rows, self._characters = ids, 0, 0
        for name in (OFFSETS, *((ENDS,) if ids else ())):
            self._files[name].write(np.zeros(1, dtype="<i8").tobytes())

    def __enter__(self) -> InteractionWriter:
        return self

    def __exit__(self, *fault: object) -> None:
        """Close what ``finish`` did not."""
        with ExitStack() as stack:
            for file in self._files.values():
                stack.callback(file.close)

    @property
    def rows(self) -> int:
        """Interactions so far."""
        return self._rows

    def append(self, block: Interactions) -> None:
        """Add the next users."""
        self._files[OFFSETS].write((block.indptr[1:] - block.indptr[0] + self._rows).astype("<i8").tobytes())
        self._rows += len(block)
        for name, kind in COLUMNS.items():
            self._files[name].write(np.asarray(getattr(block, name)).astype(kind, copy=False).tobytes())
        if self._ids:
            encoded = [str(one).encode("utf-8") for one in block.user_ids]
            ends = np.cumsum([len(one) for one in encoded], dtype="<i8") + self._characters
            self._characters = int(ends[-1]) if len(ends) else self._characters
            self._files[IDS].write(b"".join(encoded))
            self._files[ENDS].write(ends.tobytes())
            self._files[KEYS].write(np.array([user_key(str(one)) for one in block.user_ids], dtype="<u8").tobytes())

    def finish(self) -> Record:
        """Make the files durable; what ``check_files`` compares them with."""
        return {name: file.finish() for name, file in self._files.items()}


def open_interactions(folder: Path, *, item_count: int, ids: Sequence[str] | None = None) -> Interactions:
    """Interactions of a folder, memory-mapped and read-only.

    Args:
        ids: of the users; None opens those of the folder.
    """
    if ids is None:
        ids = StoredIds(_mapped(folder / IDS, "u1"), _mapped(folder / ENDS, "<i8"), _mapped(folder / KEYS, "<u8"))
    columns = {name: _mapped(folder / name, kind) for name, kind in COLUMNS.items()}
    return Interactions(user_ids=ids, indptr=_mapped(folder / OFFSETS, "<i8"), item_count=item_count, **columns)


def check_files(folder: Path, record: Mapping[str, Sequence[object]], *, fix: str) -> None:
    """Compare files with what their writer said of them.

    Raises:
        MmfedError: one is missing, cut off or changed.
    """
    for name, (size, digest) in record.items():
        path = folder / name
        try:
            found = path.stat().st_size
            fault = f"holds {found} bytes instead of {size}" if found != size else None
            if fault is None and sha256_file(path) != digest:
                fault = "was changed since it was written (its SHA-256 does not match)"
        except OSError as error:
            fault = f"cannot be read ({error.strerror})"
        if fault is not None:
            raise MmfedError(ExitCode.STORAGE, f"{path}: {fault}.", fix)


def _mapped(path: Path, kind: str) -> np.ndarray:
    """A file as a plain array that the kernel pages in as it is read."""
    if path.stat().st_size == 0:
        return np.zeros(0, dtype=kind)
    return np.asarray(np.memmap(path, dtype=kind, mode="r"))
