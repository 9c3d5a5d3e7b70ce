"""Who may take part: the pinned public keys of the devices, and signatures checked against them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mmfed.privacy.secure_aggregation.context import RoundContext, name
from mmfed.privacy.secure_aggregation.refusal import refusal

_DOMAIN = b"mmfed secure aggregation 1"


@dataclass(frozen=True)
class Roster:
    """The ed25519 public keys a device accepts as peers. Without one, a server could make up all the peers."""

    keys: frozenset[bytes]

    @classmethod
    def of(cls, keys: Iterable[bytes]) -> Roster:
        """A roster of raw public keys.

        Raises:
            MmfedError: one of them is no key.
        """
        chosen = frozenset(keys)
        if any(not isinstance(key, bytes) or len(key) != 32 for key in chosen):
            raise refusal("the roster holds something that is not an ed25519 public key")
        return cls(chosen)

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the sorted keys: what people compare by another way."""
        return hashlib.sha256(b"".join(sorted(self.keys))).hexdigest()

    def check(self, context: RoundContext) -> None:
        """Refuse a round with a party that is not pinned.

        Raises:
            MmfedError: names the first such party.
        """
        for party in context.parties:
            if party not in self.keys:
                raise refusal(
                    f"{name(party)} is not in this device's roster",
                    "nothing was sent; give the device the roster of this run, or find out who added the party.",
                )


def sign(key: Ed25519PrivateKey, purpose: str, context: RoundContext, content: bytes) -> bytes:
    """Signature of ``content`` for one purpose in one round."""
    return key.sign(_framed(purpose, context, content))


def signed_by(party: bytes, signature: bytes, purpose: str, context: RoundContext, content: bytes) -> bool:
    """Whether ``party`` signed ``content`` for this purpose in this round."""
    try:
        Ed25519PublicKey.from_public_bytes(party).verify(signature, _framed(purpose, context, content))
    except (InvalidSignature, ValueError):
        return False
    return True


def _framed(purpose: str, context: RoundContext, content: bytes) -> bytes:
    return b"\0".join([_DOMAIN, purpose.encode(), context.digest + content])
