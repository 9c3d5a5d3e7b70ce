"""Raw features of one modality on disk: written in chunks, resumable, checked by hash when read."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from mmfed.data.schema import Features
from mmfed.encoders.encoder import Encoded, FrozenEncoder, ItemInputs
from mmfed.errors import ExitCode, MmfedError
from mmfed.records import atomic_file, sha256_file, write_bytes, write_json

Item = TypeVar("Item")
Progress = Callable[[int, int], None]

CHUNK = 128  # items made durable at a time: what a kill can cost
_LAYOUT = 1  # changes when the meaning of the files does


@dataclass(frozen=True, eq=False)
class CachedFeatures:
    """Features read back from the cache.

    Attributes:
        features: values [items, d] float16, memory-mapped; presence [items].
        faults: reason by item index, for inputs that could not be read.
        damaged: True when a stored copy failed its hash and was made again.
    """

    features: Features
    faults: dict[int, str]
    damaged: bool


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/mmfed``, else ``~/.cache/mmfed``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mmfed"


def cached_features(
    folder: Path, modality: str, encoder: FrozenEncoder[Item], items: ItemInputs[Item], progress: Progress | None = None
) -> CachedFeatures:
    """Encode ``items``, or read what an earlier run with the same encoder, weights and inputs left.

    A run killed in between continues after its last whole chunk. Processes that want the same features wait for each
    other on a lock that dies with its holder; the second reads what the first wrote.

    Raises:
        MmfedError: the folder cannot be written.
    """
    key = _key(modality, encoder, items)
    entry = folder / f"{modality}-{slug(encoder.name)}-{key['key'][:24]}"
    with _faults(folder):
        entry.mkdir(parents=True, exist_ok=True)
        with _lock(entry / "lock"):
            found = _read(entry, key)
            damaged = found is None and (entry / "record.json").exists()
            if damaged:
                _discard(entry)
            if found is None:
                _fill(entry, encoder, items, progress)
                _assemble(entry, key, len(items.inputs), items.rows())
                found = _read(entry, key)
            elif progress is not None:
                progress(len(items.rows()), len(items.rows()))
    if found is None:
        raise MmfedError(
            ExitCode.FEATURES,
            f"{entry}: what was just written does not read back the same.",
            "check the disk, or set features.cache to a folder on another one.",
        )
    return CachedFeatures(*found, damaged=damaged)


def _key(modality: str, encoder: FrozenEncoder[Any], items: ItemInputs[Any]) -> dict[str, Any]:
    """What the stored numbers depend on; ``key`` is the hash of the rest."""
    parts = {
        "layout": _LAYOUT,
        "modality": modality,
        "encoder": encoder.name,
        "weights_sha256": encoder.weights_sha256,
        "inputs_sha256": items.fingerprint,
        "items": len(items.inputs),
    }
    return {**parts, "key": hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()}


def slug(name: str) -> str:
    """An encoder's name as a part of a file's name."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)[:40].strip("-") or "encoder"


@contextlib.contextmanager
def _faults(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, MmfedError) as error:
        if isinstance(error, MmfedError) and error.code != ExitCode.STORAGE:
            raise
        reason = error.message if isinstance(error, MmfedError) else error.strerror or error
        raise MmfedError(
            ExitCode.FEATURES,
            f"{folder}: the feature cache cannot be used ({reason}).",
            "set features.cache to a writable folder with free space; finished work is kept.",
        ) from error


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process at a time; the system releases it when the holder dies, however it dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(entry: Path, key: dict[str, Any]) -> tuple[Features, dict[int, str]] | None:
    """The finished features, or None when there are none or they are not what their record says."""
    try:
        record = json.loads((entry / "record.json").read_bytes())
        if any(record[name] != value for name, value in key.items()):
            return None
        for name in ("values", "present"):
            if sha256_file(entry / f"{name}.npy") != record[f"{name}_sha256"]:
                return None
        values = np.load(entry / "values.npy", mmap_mode="r", allow_pickle=False)
        present = np.load(entry / "present.npy", allow_pickle=False)
        faults = {int(index): str(reason) for index, reason in record["faults"].items()}
        if list(values.shape) != record["shape"] or values.dtype != np.float16 or present.dtype != np.bool_:
            return None
        return Features(values, present), faults
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _discard(entry: Path) -> None:
    (entry / "record.json").unlink(missing_ok=True)
    shutil.rmtree(entry / "chunks", ignore_errors=True)


def _fill(entry: Path, encoder: FrozenEncoder[Item], items: ItemInputs[Item], progress: Progress | None) -> None:
    """Encode every chunk that is not on disk whole."""
    rows = items.rows()
    for start in range(0, len(rows), CHUNK):
        block = rows[start : start + CHUNK]
        path = _chunk_path(entry, start)
        if _read_chunk(path, len(block)) is None:
            encoded = encoder.encode([value for row in block if (value := items.inputs[row]) is not None])
            write_bytes(path, chunk_bytes(encoded))
        if progress is not None:
            progress(start + len(block), len(rows))


def _chunk_path(entry: Path, start: int) -> Path:
    return entry / "chunks" / f"{start:09d}.safetensors"


def chunk_bytes(encoded: Encoded) -> bytes:
    """Vectors as float16 with presence, faults and a checksum, in safetensors form."""
    with np.errstate(over="ignore"):
        values = encoded.values.astype(np.float16)
    sound = np.isfinite(values).all(axis=1)
    faults = dict(encoded.faults) | {
        int(row): "vector beyond float16" for row in np.flatnonzero(encoded.present & ~sound)
    }
    present = encoded.present & sound
    values[~present] = 0.0
    about = json.dumps({str(row): reason for row, reason in faults.items()})
    tensors = {"values": values, "present": present}
    return save_tensors(tensors, metadata={"faults": about, "sha256": _chunk_digest(values, present, about)})


def _chunk_digest(values: np.ndarray, present: np.ndarray, about: str) -> str:
    return hashlib.sha256(values.tobytes() + present.tobytes() + about.encode()).hexdigest()


def _read_chunk(path: Path, size: int) -> tuple[np.ndarray, np.ndarray, dict[int, str]] | None:
    try:
        return parsed_chunk(path.read_bytes(), size)
    except FileNotFoundError:
        return None


def parsed_chunk(data: bytes, size: int) -> tuple[np.ndarray, np.ndarray, dict[int, str]] | None:
    """Values, presence and faults of a chunk that is whole and says so, or None."""
    try:
        tensors = load_tensors(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        values, present, about = tensors["values"], tensors["present"], header["faults"]
        if len(values) != size or header["sha256"] != _chunk_digest(values, present, about):
            return None
        return values, present, {int(row): reason for row, reason in json.loads(about).items()}
    except (SafetensorError, ValueError, KeyError):
        return None


def _assemble(entry: Path, key: dict[str, Any], count: int, rows: Sequence[int]) -> None:
    """Join the chunks into the two arrays, then the record that makes them valid, then drop the chunks."""
    present = np.zeros(count, dtype=bool)
    faults: dict[int, str] = {}
    width = 0
    values: np.ndarray | None = None
    building = entry / "values.building.npy"
    for start in range(0, len(rows), CHUNK):
        block = np.asarray(rows[start : start + CHUNK])
        chunk = _read_chunk(_chunk_path(entry, start), len(block))
        if chunk is None:
            raise OSError(f"chunk {start} was lost while it was in use")
        if values is None:
            width = chunk[0].shape[1]
            values = np.lib.format.open_memmap(building, mode="w+", dtype=np.float16, shape=(count, width))
        values[block], present[block] = chunk[0], chunk[1]
        faults |= {int(block[row]): reason for row, reason in chunk[2].items()}
    if values is None:
        values = np.zeros((count, 0), dtype=np.float16)
        np.save(building, values)
    elif isinstance(values, np.memmap):
        values.flush()
    del values
    os.replace(building, entry / "values.npy")
    with atomic_file(entry / "present.npy") as file:
        np.save(file, present)
    write_json(
        entry / "record.json",
        {
            **key,
            "shape": [count, width],
            "dtype": "float16",
            "values_sha256": sha256_file(entry / "values.npy"),
            "present_sha256": sha256_file(entry / "present.npy"),
            "faults": {str(row): faults[row] for row in sorted(faults)},
        },
    )
    shutil.rmtree(entry / "chunks", ignore_errors=True)
