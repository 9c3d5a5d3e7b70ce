"""What a device keeps about its people, sealed at rest (the article's AES row; docs/vault.md). Adds nothing to ε.

A vault is a folder. ``vault.json`` holds its random data key, wrapped by a key from the key source; every record is a
file ``NAME.sealed`` under it, bound to NAME.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.key_source import KeySource, wipe
from mmfed.privacy.sealing import DataKey, key_id, seal, unseal
from mmfed.privacy.wrapped_keys import WrappedKeys
from mmfed.records import storage_faults, write_bytes

KEYS_FILE, LOCK_FILE, SUFFIX = "vault.json", "vault.lock", ".sealed"
MOST_SEALS = 2**32
RESERVE = 1024  # seals counted at a time, before they are made: a kill can only count too many
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


class Vault:
    """Sealed records by name; safe for several threads and processes, and against a kill at any instant.

    AES-256-GCM with a fresh random 96-bit nonce for every seal. A data key seals 2^32 records at most (NIST SP 800-38D,
    section 8.3), counted in ``vault.json``; then ``rotate`` is demanded. A record of another name, vault or version,
    and one with any byte changed, is refused. An older copy of the very same record, and a missing one, are not
    noticed.

    Args:
        folder: where everything is; made for its owner alone when missing.
        source: of the secret that wraps the data key.
        create: whether to make a new vault where there is none.

    Raises:
        MmfedError: the secret is missing or another one, the wrapped keys are damaged, or they are gone and sealed
            records are not.
    """

    _wrapped: WrappedKeys
    _keys: tuple[DataKey, ...]
    _secret: bytes

    def __init__(self, folder: Path, source: KeySource, *, create: bool = True) -> None:
        self.folder, self._source = folder, source
        self._stamp: tuple[int, ...] = ()  # of vault.json as it was read last
        self._free = 0  # seals counted and not made yet
        if create:
            with storage_faults(folder):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        elif not (folder / KEYS_FILE).exists():
            WrappedKeys.read(folder / KEYS_FILE)
        with locked(folder, fcntl.LOCK_EX):
            if create and not (folder / KEYS_FILE).exists():
                self._create()
            self._refresh()

    def __repr__(self) -> str:
        return f"Vault({str(self.folder)!r}, {self._source.kind})"

    def path(self, name: str) -> Path:
        """The file of a record."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a record")
        return self.folder / f"{name}{SUFFIX}"

    def read(self, name: str) -> bytes | None:
        """A record's data; None where there is no such record.

        Raises:
            MmfedError: the file cannot be read; BrokenSealError: it is not what was sealed under this name.
        """
        with locked(self.folder, fcntl.LOCK_SH):
            return self._read(name)

    def write(self, name: str, data: bytes) -> None:
        """Seal a record in place of an earlier one; on disk when this returns."""
        with locked(self.folder, fcntl.LOCK_EX):
            self._write(name, data)

    def read_or_write(self, name: str, make: Callable[[], bytes]) -> bytes:
        """A record's data, made and sealed first where there is none: all who ask get the same."""
        with locked(self.folder, fcntl.LOCK_EX):
            found = self._read(name)
            if found is None:
                found = make()
                self._write(name, found)
            return found

    def remove(self, name: str) -> None:
        """Overwrite a record and remove it; nothing where there is none."""
        with locked(self.folder, fcntl.LOCK_EX):
            wipe(self.path(name))

    def rotate(self, *, data_key: bool = True, to: KeySource | None = None) -> int:
        """Wrap the data key by a new key and, unless told otherwise, take a new data key and seal everything again.

        Killed at any instant, every record stays readable with the old secret or the new one, whichever the key source
        has; a later call finishes the work.

        Args:
            data_key: False wraps the same data key anew: cheap, and enough when the secret alone changes hands.
            to: another source of the secret from now on. Without it a key file or keystore gets a new random secret,
                and a passphrase stays the same.

        Returns:
            How many records were sealed again.
        """
        with locked(self.folder, fcntl.LOCK_EX):
            self._refresh()
            self._sweep()
            old, target = self._source, to or self._source
            names = list(self.names())
            if target == old:
                target.renew(self._wrapped.vault, self._secret)
            else:
                target.create(self._wrapped.vault)
            keys = [(key, one.seals) for key, one in zip(self._keys, self._wrapped.keys, strict=True)]
            if data_key:
                keys = [(DataKey.new(), len(names)), *keys]
            self._source = target
            self._save(keys)
            if data_key or len(keys) > 1:
                self._reseal(names)
                self._save(keys[:1])
            target.settle(self._wrapped.vault)
            if target != old:
                old.discard(self._wrapped.vault)
            return len(names) if data_key else 0

    def names(self, prefix: str = "") -> Iterator[str]:
        """Names of all records, or of those under a folder ``prefix``, sorted."""
        for path in sealed_files(self.folder / prefix):
            yield path.relative_to(self.folder).as_posix().removesuffix(SUFFIX)

    def _create(self) -> None:
        orphan = next(iter(sealed_files(self.folder)), None)
        if orphan is not None:
            WrappedKeys.read(self.folder / KEYS_FILE)  # says that they are gone
        vault = secrets.token_hex(8)
        self._source.create(vault)
        WrappedKeys.wrap(vault, self._source, [(DataKey.new(), 0)]).write(self.folder / KEYS_FILE)

    def _refresh(self) -> None:
        """Follow what another process did to the keys."""
        path = self.folder / KEYS_FILE
        stamp = _stamp(path)
        if stamp and stamp == self._stamp:
            return
        wrapped = WrappedKeys.read(path)
        if not self._stamp or _uncounted(self._wrapped) != _uncounted(wrapped):
            self._keys, self._secret = wrapped.unwrap(self._source, path)
            self._free = 0
        self._wrapped, self._stamp = wrapped, stamp

    def _save(self, keys: list[tuple[DataKey, int]]) -> None:
        self._wrapped = WrappedKeys.wrap(self._wrapped.vault, self._source, keys)
        self._wrapped.write(self.folder / KEYS_FILE)
        self._keys = tuple(key for key, _ in keys)
        self._secret = self._source.secrets(self._wrapped.vault)[0]
        self._stamp, self._free = _stamp(self.folder / KEYS_FILE), 0

    def _read(self, name: str) -> bytes | None:
        path = self.path(name)
        self._refresh()
        record = _content(path)
        return None if record is None else unseal(self._keys, name, record, where=path)

    def _write(self, name: str, data: bytes) -> None:
        path = self.path(name)
        self._refresh()
        self._count()
        write_bytes(path, seal(self._keys[0], name, data), mode=0o600)

    def _count(self) -> None:
        """Count a seal before it is made."""
        if not self._free:
            first, *rest = self._wrapped.keys
            if first.seals + RESERVE > MOST_SEALS:
                raise MmfedError(
                    ExitCode.STORAGE,
                    f"{self.folder}: the data key of this vault has sealed as much as one key may.",
                    "mmfed device rotate seals everything under a new key.",
                )
            counted = replace(first, seals=first.seals + RESERVE)
            self._wrapped = replace(self._wrapped, keys=(counted, *rest))
            self._wrapped.write(self.folder / KEYS_FILE)
            self._stamp, self._free = _stamp(self.folder / KEYS_FILE), RESERVE
        self._free -= 1

    def _reseal(self, names: list[str]) -> None:
        """Bring every record under the first key; those that are there already stay as they are."""
        for name in names:
            path = self.path(name)
            record = _content(path)
            if record is not None and key_id(record, where=path) != self._keys[0].id:
                data = unseal(self._keys, name, record, where=path)
                write_bytes(path, seal(self._keys[0], name, data), mode=0o600)

    def _sweep(self) -> None:
        """Remove what a kill left half written."""
        for path in half_written(self.folder):
            path.unlink(missing_ok=True)


def sealed_files(folder: Path) -> Iterator[Path]:
    """All sealed records under a folder, sorted; symbolic links are not followed."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(place, name) for name in sorted(files) if name.endswith(SUFFIX) and not name.startswith("."))


def half_written(folder: Path) -> list[Path]:
    """Files that a kill left before they got their name: of records, of the wrapped keys, of the key beside them."""
    found = [path for path in folder.glob(".vault.*") if path.is_file()]
    for place, _, files in os.walk(folder):
        found += [Path(place, name) for name in files if name.startswith(".") and f"{SUFFIX}." in name]
    return found


def _uncounted(wrapped: WrappedKeys) -> WrappedKeys:
    return replace(wrapped, keys=tuple(replace(key, seals=0) for key in wrapped.keys))


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes whenever the file is replaced; empty where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MmfedError(ExitCode.STORAGE, f"{path}: cannot be read ({error.strerror}).", "make it readable.") from None


@contextmanager
def locked(folder: Path, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    """A vault's lock, held until the block ends or its process dies: by one writer, or by any number of readers."""
    with storage_faults(folder):
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)
