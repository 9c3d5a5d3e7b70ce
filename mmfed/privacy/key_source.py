"""Where the secret that opens a vault comes from: a passphrase, a key file, or the operating system's keystore."""

from __future__ import annotations

import os
import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.key_derivation import EXPANSION, STRETCHING
from mmfed.records import storage_faults, write_bytes

SHORTEST_PASSPHRASE = 12  # characters
_LONGEST_FILE = 4096  # bytes
_SERVICE = "mmfed"  # the name in the keystore


class KeySource(Protocol):
    """A place that keeps the secret outside the vault's folder, or beside it."""

    kind: ClassVar[str]
    derivation: ClassVar[Mapping[str, Any]]

    def secrets(self, vault: str) -> tuple[bytes, ...]:
        """The secret; while it is being replaced also the one before, the new one first.

        Args:
            vault: the vault's id.

        Raises:
            MmfedError: there is none, or others may read it.
        """
        ...

    def create(self, vault: str) -> None:
        """Make a secret where there is none."""
        ...

    def renew(self, vault: str, used: bytes) -> None:
        """Put a new random secret before the one in use; nothing where people choose the secret."""
        ...

    def settle(self, vault: str) -> None:
        """Keep the first secret alone."""
        ...

    def discard(self, vault: str) -> bool:
        """Destroy what mmfed itself keeps here for this vault; whether nothing is left."""
        ...


@dataclass(frozen=True)
class PassphraseFile:
    """A passphrase in a file that the service manager or a person provides, e.g. systemd's ``LoadCredential``."""

    path: Path
    kind: ClassVar[str] = "passphrase"
    derivation: ClassVar[Mapping[str, Any]] = STRETCHING

    def secrets(self, vault: str) -> tuple[bytes, ...]:
        text = _own_file(self.path, "the passphrase").removesuffix(b"\n").removesuffix(b"\r")
        try:
            phrase = unicodedata.normalize("NFC", text.decode())
        except UnicodeDecodeError:
            raise MmfedError(
                ExitCode.STORAGE, f"{self.path}: the passphrase is not UTF-8 text.", "save the file as UTF-8."
            ) from None
        if len(phrase) < SHORTEST_PASSPHRASE:
            raise MmfedError(
                ExitCode.STORAGE,
                f"{self.path}: the passphrase has fewer than {SHORTEST_PASSPHRASE} characters.",
                "take five or more random words.",
            )
        return (phrase.encode(),)

    def create(self, vault: str) -> None:
        self.secrets(vault)

    def renew(self, vault: str, used: bytes) -> None:
        del vault, used

    def settle(self, vault: str) -> None:
        del vault

    def discard(self, vault: str) -> bool:
        del vault
        return False


@dataclass(frozen=True)
class KeyFile:
    """A file of 64 hex digits, made by mmfed with mode 600.

    Attributes:
        kept_here: whether it is mmfed's own, beside the vault.
    """

    path: Path
    kept_here: bool = False
    kind: ClassVar[str] = "key-file"
    derivation: ClassVar[Mapping[str, Any]] = EXPANSION

    def secrets(self, vault: str) -> tuple[bytes, ...]:
        del vault
        return _from_hex(_own_file(self.path, "the key file"), self.path)

    def create(self, vault: str) -> None:
        if self.path.exists():
            self.secrets(vault)
        else:
            self._write(_new_secret())

    def renew(self, vault: str, used: bytes) -> None:
        del vault
        self._write(_new_secret(), used)

    def settle(self, vault: str) -> None:
        found = self.secrets(vault)
        if len(found) > 1:
            self._write(found[0])

    def discard(self, vault: str) -> bool:
        del vault
        if self.kept_here:
            wipe(self.path)
        return self.kept_here

    def _write(self, *values: bytes) -> None:
        write_bytes(self.path, "".join(f"{value.hex()}\n" for value in values).encode(), mode=0o600)


@dataclass(frozen=True)
class Keystore:
    """The operating system's keystore (macOS Keychain, Windows Credential Locker, Secret Service), by ``keyring``."""

    kind: ClassVar[str] = "keystore"
    derivation: ClassVar[Mapping[str, Any]] = EXPANSION

    def secrets(self, vault: str) -> tuple[bytes, ...]:
        found = self._call("get_password", vault)
        if found is None:
            raise MmfedError(
                ExitCode.STORAGE,
                f"the keystore of this system has no key of the vault {vault}.",
                "run as the user whose keystore has it; without the key the vault cannot be opened.",
            )
        return _from_hex(str(found).encode(), "the keystore")

    def create(self, vault: str) -> None:
        if self._call("get_password", vault) is None:
            self._store(vault, _new_secret())

    def renew(self, vault: str, used: bytes) -> None:
        self._store(vault, _new_secret(), used)

    def settle(self, vault: str) -> None:
        found = self.secrets(vault)
        if len(found) > 1:
            self._store(vault, found[0])

    def discard(self, vault: str) -> bool:
        if self._call("get_password", vault) is not None:
            self._call("delete_password", vault)
        return True

    def _store(self, vault: str, *values: bytes) -> None:
        self._call("set_password", vault, "\n".join(value.hex() for value in values))

    def _call(self, action: str, *arguments: str) -> Any:
        keyring = _keyring()
        fix = "use vault = 'passphrase-file:PATH' here, or install and unlock a keystore."
        try:
            return getattr(keyring, action)(_SERVICE, *arguments)
        except keyring.errors.NoKeyringError:
            raise MmfedError(ExitCode.STORAGE, "this system has no keystore that can be used.", fix) from None
        except keyring.errors.KeyringError as error:
            name = type(error).__name__
            raise MmfedError(ExitCode.STORAGE, f"the keystore of this system refuses ({name}).", fix) from None


def key_source(setting: str | None, folder: Path) -> KeySource:
    """The source that a ``vault`` setting names; without one a key file that lies in the vault's folder.

    Raises:
        MmfedError: the setting is none of these.
    """
    kind, _, path = (setting or "").strip().partition(":")
    if not kind:
        return KeyFile(folder / "vault.key", kept_here=True)
    if kind == "keystore" and not path:
        return Keystore()
    if kind in ("passphrase-file", "key-file") and path.strip():
        place = Path(path.strip()).expanduser()
        return PassphraseFile(place) if kind == "passphrase-file" else KeyFile(place)
    raise MmfedError(
        ExitCode.CONFIG,
        f"vault = {setting!r} is no place for a key.",
        "write passphrase-file:PATH, key-file:PATH or keystore, or leave it out.",
    )


def wipe(path: Path) -> bool:
    """Overwrite a file once and remove it; whether it was there. A symbolic link is removed alone.

    Journals, copy-on-write file systems and flash memory may keep what was overwritten: destroying the key is what
    makes sealed data unreadable.
    """
    with storage_faults(path):
        if path.is_symlink():
            path.unlink()
            return True
        if not path.is_file():
            return False
        with open(path, "r+b") as file:
            left = os.fstat(file.fileno()).st_size
            while left > 0:
                left -= file.write(secrets.token_bytes(min(left, 2**20)))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
        return True


def _new_secret() -> bytes:
    return secrets.token_bytes(32)


def _from_hex(text: bytes, where: object) -> tuple[bytes, ...]:
    try:
        found = tuple(bytes.fromhex(line.decode()) for line in text.split())
    except ValueError:
        found = ()
    if not found or any(len(one) != 32 for one in found):
        raise MmfedError(
            ExitCode.STORAGE,
            f"{where}: not a key of this vault (64 hex digits).",
            "bring the key back from a copy; without it the vault cannot be opened.",
        )
    return found


def _own_file(path: Path, what: str) -> bytes:
    """The content of a small file that only its owner may read."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_LONGEST_FILE + 1)
    except OSError as error:
        raise MmfedError(
            ExitCode.STORAGE,
            f"{path}: {what} of the vault cannot be read ({error.strerror}).",
            "put it there, readable by the device's user; without it the vault cannot be opened.",
        ) from None
    if mode & 0o077:
        raise MmfedError(
            ExitCode.STORAGE,
            f"{path}: others may read {what} of the vault (mode {mode & 0o777:o}).",
            f"chmod 600 {path}",
        )
    if len(content) > _LONGEST_FILE:
        raise MmfedError(ExitCode.STORAGE, f"{path}: too long to be {what} of the vault.", "name the right file.")
    return content


def _keyring() -> ModuleType:
    try:
        import keyring  # pyright: ignore[reportMissingImports]
        import keyring.errors  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MmfedError(
            ExitCode.MISSING_EXTRA,
            "the Python package keyring is not installed, and vault = 'keystore' needs it.",
            "pip install 'mmfed[keystore]'",
        ) from None
    return keyring
