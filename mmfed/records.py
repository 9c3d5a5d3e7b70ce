"""The run folder and the atomic, durable writes behind it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mmfed.errors import ExitCode, MmfedError


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its files. Nothing is created by naming a path.

    Files: ``config.toml``, ``environment.json``, ``metrics.jsonl`` (one line a round), ``ledger.jsonl`` (privacy),
    ``devices/`` (ledgers of simulated devices, record mode), ``checkpoints/``, ``results.json``,
    ``recommendations.json``, ``bundle/``, ``report.html``.
    """

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.jsonl"

    @property
    def devices(self) -> Path:
        return self.path / "devices"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def recommendations(self) -> Path:
        return self.path / "recommendations.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"


@contextmanager
def storage_faults(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal (no space, no permission, …) into a fault with a mend."""
    try:
        yield
    except OSError as error:
        raise MmfedError(
            ExitCode.STORAGE,
            f"{path}: cannot be written ({error.strerror or error}).",
            "free space or choose a writable folder, then run again with --resume; what was written before is intact.",
        ) from error


@contextmanager
def atomic_file(path: Path, *, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """A binary file that appears at ``path`` whole and durable, or not at all (temp file, fsync, rename, fsync folder).

    Args:
        mode: who may read it; until it is whole, its owner alone.

    Raises:
        MmfedError: the disk is full or the folder is not writable; ``path`` is then as it was before.
    """
    with storage_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, mode)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a whole file atomically."""
    with atomic_file(path, mode=mode) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; NaN is refused (use None with a reason)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON line and make it durable before returning."""
    with storage_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        with open(path, "ab") as file:
            file.write(line.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file; a torn last line (killed while appending) is left out.

    Raises:
        MmfedError: any other line is not JSON.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    complete, torn = lines[:-1], lines[-1]
    del torn
    records: list[dict[str, Any]] = []
    for number, line in enumerate(complete, start=1):
        try:
            records.append(json.loads(line))
        except ValueError:
            raise MmfedError(
                ExitCode.STORAGE, f"{path}: line {number} is not JSON.", "restore the file from a copy."
            ) from None
    return records


def sync_folder(path: Path) -> None:
    """Make a rename or a new file in ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
