"""AES-256-GCM sealed records: data that only the key's holder can read, bound to the name they were sealed under.

Layout of a record, big-endian: ``mmfedseal`` and a version byte (10 bytes), id of the data key (16), length of the name
(2), length of the ciphertext with its tag (8), the name in UTF-8, the nonce (12), ciphertext and tag (16). Everything
before the nonce is authenticated with the data. Source: NIST SP 800-38D.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from mmfed.errors import ExitCode, MmfedError

NONCE_BYTES, TAG_BYTES = 12, 16
_MAGIC = b"mmfedseal\x01"
_HEAD = struct.Struct(">10s16sHQ")


class BrokenSealError(MmfedError):
    """A record that is not, byte for byte, what was sealed under its name."""


@dataclass(frozen=True)
class DataKey:
    """A 256-bit key and its public id; the key itself is never shown.

    With random nonces one key seals at most 2^32 records (SP 800-38D, section 8.3): the chance that a nonce comes
    twice then stays below 2^-32.
    """

    id: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def new(cls) -> DataKey:
        """A random key."""
        return cls(secrets.token_bytes(16), secrets.token_bytes(32))


def encrypt(key: bytes, nonce: bytes, data: bytes, associated: bytes) -> bytes:
    """Ciphertext and tag; a nonce must never be used twice with a key."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key).encrypt(nonce, data, associated)


def decrypt(key: bytes, nonce: bytes, data: bytes, associated: bytes) -> bytes | None:
    """The plaintext; None where the tag does not fit."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(nonce, data, associated)
    except InvalidTag:
        return None


def seal(key: DataKey, name: str, data: bytes) -> bytes:
    """A sealed record of ``data`` under a fresh nonce.

    Args:
        name: what the record is and whose; ``unseal`` asks for the same one.
    """
    label = name.encode()
    head = _HEAD.pack(_MAGIC, key.id, len(label), len(data) + TAG_BYTES) + label
    nonce = secrets.token_bytes(NONCE_BYTES)
    return head + nonce + encrypt(key.secret, nonce, data, head)


def unseal(keys: Iterable[DataKey], name: str, record: bytes, *, where: object) -> bytes:
    """The data of a sealed record.

    Args:
        keys: of the vault; the record names the one it needs.
        name: what the record must be.
        where: the file, for the fault.

    Raises:
        BrokenSealError: damaged, cut off, sealed by another vault, or a record of another name.
    """
    key_id, found, start = _head(record, where)
    key = next((one for one in keys if one.id == key_id), None)
    if key is None:
        raise _broken(where, "was sealed under a key that this vault does not hold (another device's, or an older one)")
    nonce, body = record[start : start + NONCE_BYTES], record[start + NONCE_BYTES :]
    data = decrypt(key.secret, nonce, body, record[:start])
    if data is None:
        raise _broken(where, "was changed or damaged since it was sealed")
    if found != name.encode():
        raise _broken(where, f"holds the record {found.decode()}, not {name}: files were swapped or renamed")
    return data


def key_id(record: bytes, *, where: object) -> bytes:
    """Id of the key that a record was sealed under, as the record says.

    Raises:
        BrokenSealError: not a sealed record, or cut off.
    """
    return _head(record, where)[0]


def _head(record: bytes, where: object) -> tuple[bytes, bytes, int]:
    """Key id, name and where the nonce starts."""
    if record[: len(_MAGIC)] != _MAGIC[: len(record)]:
        raise _broken(where, "is not a sealed record")
    if len(record) < _HEAD.size:
        raise _broken(where, f"is cut off after {len(record)} bytes")
    _, key, label, body = _HEAD.unpack_from(record)
    start = _HEAD.size + label
    expected = start + NONCE_BYTES + body
    if len(record) != expected:
        raise _broken(where, f"has {len(record)} bytes and was sealed with {expected}: cut off or damaged")
    return key, record[_HEAD.size : start], start


def _broken(where: object, what: str) -> BrokenSealError:
    return BrokenSealError(
        ExitCode.STORAGE,
        f"{where}: {what}.",
        "bring the file back from a copy of this device's folder, or give up what it holds with mmfed device forget.",
    )
