"""A device's keys for one round, signed with its long-lived identity."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mmfed.privacy.secure_aggregation.context import RoundContext, name
from mmfed.privacy.secure_aggregation.refusal import refusal
from mmfed.privacy.secure_aggregation.roster import sign, signed_by

_PURPOSE = "advertise"


@dataclass(frozen=True)
class Advertisement:
    """What a device tells its peers.

    Attributes:
        party: ed25519 public key of the device.
        sealing_key: X25519 public key under which shares are sent to it.
        mask_key: X25519 public key of the masks it shares with every peer.
        commitment: to the seed of its own mask, so that a wrong share is noticed.
        signature: of the three by the party, bound to the round.
    """

    party: bytes
    sealing_key: bytes
    mask_key: bytes
    commitment: bytes
    signature: bytes

    SIZE = 32 * 4 + 64

    def to_bytes(self) -> bytes:
        """192 bytes."""
        return self.party + self.sealing_key + self.mask_key + self.commitment + self.signature

    @classmethod
    def from_bytes(cls, data: bytes) -> Advertisement:
        """Inverse of ``to_bytes``.

        Raises:
            MmfedError: wrong length.
        """
        if len(data) != cls.SIZE:
            raise refusal(f"an advertisement of {len(data)} bytes instead of {cls.SIZE}")
        return cls(data[:32], data[32:64], data[64:96], data[96:128], data[128:])

    def check(self, context: RoundContext) -> None:
        """Refuse a forged or replayed advertisement.

        Raises:
            MmfedError: the party is not of this round, or did not sign these keys for it.
        """
        context.point(self.party)
        if not signed_by(self.party, self.signature, _PURPOSE, context, self._content()):
            raise refusal(f"the keys of {name(self.party)} are forged, or of another round")

    def _content(self) -> bytes:
        return self.sealing_key + self.mask_key + self.commitment


def advertise(
    identity: Ed25519PrivateKey, context: RoundContext, *, sealing_key: bytes, mask_key: bytes, seed: bytes
) -> Advertisement:
    """The signed advertisement of two public keys and a seed."""
    party = identity.public_key().public_bytes_raw()
    commitment = commitment_to(seed, party, context)
    signature = sign(identity, _PURPOSE, context, sealing_key + mask_key + commitment)
    return Advertisement(party, sealing_key, mask_key, commitment, signature)


def commitment_to(seed: bytes, party: bytes, context: RoundContext) -> bytes:
    """SHA-256 commitment to a seed of 256 random bits (hiding, because nobody can try them all)."""
    return hashlib.sha256(b"mmfed seed commitment 1" + context.digest + party + seed).digest()
