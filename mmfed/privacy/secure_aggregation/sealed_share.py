"""Two Shamir shares on their way to a peer, encrypted so that the server carries them blindly."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from mmfed.privacy.secure_aggregation.context import RoundContext, name
from mmfed.privacy.secure_aggregation.key_agreement import agree
from mmfed.privacy.secure_aggregation.refusal import refusal
from mmfed.privacy.secure_aggregation.shamir import SHARE_BYTES, is_share


@dataclass(frozen=True)
class SealedShare:
    """From ``sender`` to ``receiver``: a share of the sender's mask key and one of its own seed."""

    sender: bytes
    receiver: bytes
    sealed: bytes

    SIZE = 64 + 2 * SHARE_BYTES + 16

    def to_bytes(self) -> bytes:
        """146 bytes."""
        return self.sender + self.receiver + self.sealed

    @classmethod
    def from_bytes(cls, data: bytes) -> SealedShare:
        """Inverse of ``to_bytes``.

        Raises:
            MmfedError: wrong length.
        """
        if len(data) != cls.SIZE:
            raise refusal(f"a sealed share of {len(data)} bytes instead of {cls.SIZE}")
        return cls(data[:32], data[32:64], data[64:])


def seal(
    key_share: bytes,
    seed_share: bytes,
    *,
    sender: bytes,
    receiver: bytes,
    private: bytes,
    public: bytes,
    context: RoundContext,
) -> SealedShare:
    """Seal two shares under the secret of (sender's ``private``, receiver's ``public``) sealing keys."""
    cipher, bound = _cipher(sender, receiver, private, public, context)
    return SealedShare(sender, receiver, cipher.encrypt(bytes(12), key_share + seed_share, bound))


def unseal(share: SealedShare, *, private: bytes, public: bytes, context: RoundContext) -> tuple[bytes, bytes]:
    """The share of the sender's mask key, and that of its seed.

    Raises:
        MmfedError: forged, replayed, meant for somebody else, or not of the field.
    """
    cipher, bound = _cipher(share.sender, share.receiver, private, public, context)
    try:
        plain = cipher.decrypt(bytes(12), share.sealed, bound)
    except InvalidTag:
        raise refusal(f"the share from {name(share.sender)} does not open") from None
    key_share, seed_share = plain[:SHARE_BYTES], plain[SHARE_BYTES:]
    if not (is_share(key_share) and is_share(seed_share)):
        raise refusal(f"{name(share.sender)} sent something that is not a share")
    return key_share, seed_share


def _cipher(
    sender: bytes, receiver: bytes, private: bytes, public: bytes, context: RoundContext
) -> tuple[ChaCha20Poly1305, bytes]:
    """A key for this direction and round alone seals one message, so the nonce may be constant."""
    key = agree(private, public, purpose=f"seal {sender.hex()} {receiver.hex()}", context=context)
    return ChaCha20Poly1305(key), context.digest + sender + receiver
