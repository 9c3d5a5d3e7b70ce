"""The ed25519 key that signs a party's ledger."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.key_source import wipe
from mmfed.records import storage_faults, sync_folder

if TYPE_CHECKING:
    from mmfed.privacy.vault import Vault


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """The key in a PEM (PKCS8, not encrypted) file that only its owner may read; made, whole and durable, if absent.

    Two processes that start at once get the same key.

    Raises:
        MmfedError: the file holds something else, others may read it, or it cannot be written.
    """
    if not path.exists():
        _create(path)
    return _load(path)


def load_or_create_sealed_key(path: Path, vault: Vault) -> Ed25519PrivateKey:
    """The same key kept in the vault; one that lies at ``path`` in clear is sealed, and wiped there.

    Args:
        path: under the vault's folder, without the vault's suffix.

    Raises:
        MmfedError: as ``load_or_create_key``, or the sealed record does not open.
    """
    name = path.relative_to(vault.folder).as_posix()
    pem = vault.read_or_write(name, lambda: _pem(_load(path)) if path.exists() else _pem(Ed25519PrivateKey.generate()))
    wipe(path)
    return _parsed(pem, vault.path(name))


def public_key_hex(key: Ed25519PrivateKey) -> str:
    """Hex of the public key, as it stands in the ledger's header; give it to the auditor by another way."""
    return key.public_key().public_bytes_raw().hex()


def _create(path: Path) -> None:
    pem = _pem(Ed25519PrivateKey.generate())
    with storage_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            Path(temporary).unlink(missing_ok=True)
        sync_folder(path.parent)


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load(path: Path) -> Ed25519PrivateKey:
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as error:
        raise MmfedError(
            ExitCode.STORAGE, f"{path}: the signing key cannot be read ({error.strerror}).", "make it readable."
        ) from error
    if mode & 0o077:
        raise MmfedError(
            ExitCode.STORAGE, f"{path}: others may read the signing key (mode {mode & 0o777:o}).", f"chmod 600 {path}"
        )
    return _parsed(data, path)


def _parsed(data: bytes, path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise MmfedError(
            ExitCode.STORAGE,
            f"{path}: not an unencrypted ed25519 key in PEM form.",
            "restore the key file from a copy; a new key cannot continue an old ledger.",
        )
    return key
