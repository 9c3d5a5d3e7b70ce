"""What a device says at the end: one share for every peer, of its seed if it survived, of its mask key if not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmfed.privacy.secure_aggregation.refusal import refusal
from mmfed.privacy.secure_aggregation.shamir import SHARE_BYTES, is_share

_ENTRY = 32 + SHARE_BYTES


@dataclass(frozen=True)
class Answer:
    """Shares by the party whose secret they are of.

    Attributes:
        seeds: of the own mask of every survivor, this device included.
        keys: of the mask key of every party that dropped out after it had shared.
    """

    seeds: Mapping[bytes, bytes]
    keys: Mapping[bytes, bytes]

    def to_bytes(self) -> tuple[bytes, bytes]:
        """65 bytes for every entry."""
        return _joined(self.seeds), _joined(self.keys)

    @classmethod
    def from_bytes(cls, seeds: bytes, keys: bytes) -> Answer:
        """Inverse of ``to_bytes``.

        Raises:
            MmfedError: a wrong length, a party twice, or something that is no share.
        """
        return cls(_split(seeds), _split(keys))


def _joined(shares: Mapping[bytes, bytes]) -> bytes:
    return b"".join(party + share for party, share in sorted(shares.items()))


def _split(data: bytes) -> dict[bytes, bytes]:
    entries = [data[start : start + _ENTRY] for start in range(0, len(data), _ENTRY)]
    shares = {entry[:32]: entry[32:] for entry in entries}
    if len(shares) != len(entries) or not all(is_share(share) for share in shares.values()):
        raise refusal("an answer that is not one share for every party")
    return shares
