"""X25519 and HKDF: secrets that two devices share and the server that carries their messages does not."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mmfed.privacy.secure_aggregation.context import RoundContext
from mmfed.privacy.secure_aggregation.refusal import refusal


def public_of(private: bytes) -> bytes:
    """The public key of a raw private key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, public: bytes, *, purpose: str, context: RoundContext) -> bytes:
    """32 bytes known to the owners of both private keys alone, for one purpose in one round.

    Raises:
        MmfedError: the public key is degenerate (its owner would force the secret).
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise refusal("a peer's public key is degenerate") from None
    both = b"".join(sorted((public_of(private), public)))
    info = b"mmfed secure aggregation 1\0" + purpose.encode() + b"\0" + both
    return HKDF(hashes.SHA256(), 32, salt=context.digest, info=info).derive(shared)
