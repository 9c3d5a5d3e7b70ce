"""From the secret that opens a vault to the key that wraps its data key."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

# 128 MiB and some tenths of a second a guess (RFC 7914; the parameters OWASP recommends).
STRETCHING: Mapping[str, Any] = {"kdf": "scrypt", "n": 2**17, "r": 8, "p": 1}
# For secrets that are random already (RFC 5869).
EXPANSION: Mapping[str, Any] = {"kdf": "hkdf-sha256"}
_MOST = {"n": 2**20, "r": 16, "p": 16}  # a changed file must not exhaust the memory


def new_derivation(source: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """How a wrapping key is made from a source's secret, with a fresh salt; stored with what it wraps."""
    return {"source": source, **recipe, "salt": secrets.token_hex(16)}


def wrapping_key(secret: bytes, derivation: Mapping[str, Any]) -> bytes:
    """The 256-bit key-encryption key.

    Raises:
        KeyError, TypeError, ValueError: the derivation is not one that ``new_derivation`` makes.
    """
    salt = bytes.fromhex(derivation["salt"])
    if derivation["kdf"] == EXPANSION["kdf"]:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        return HKDF(SHA256(), 32, salt, b"mmfed vault").derive(secret)
    if derivation["kdf"] != STRETCHING["kdf"]:
        raise ValueError("unknown key derivation")
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    cost = {name: int(derivation[name]) for name in _MOST}
    if any(not 1 <= value <= _MOST[name] for name, value in cost.items()):
        raise ValueError("cost of scrypt beyond bounds")
    return Scrypt(salt, 32, **cost).derive(secret)
