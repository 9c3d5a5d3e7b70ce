"""What one round is: everything its parties must agree on, bound into every key and signature by its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmfed.privacy.secure_aggregation.refusal import refusal, too_few
from mmfed.privacy.secure_aggregation.ring import Ring

NONCE_BYTES = 16
SMALLEST_COHORT = 3  # of two parties, each would learn the other's vector from the sum


@dataclass(frozen=True, kw_only=True)
class RoundContext:
    """One round of one run.

    Attributes:
        run_id, round_number: of the run.
        nonce: 16 random bytes; the same round asked for again is another context.
        parties: ed25519 public keys of the devices asked, ascending.
        users: users behind each party; 1 for a device.
        threshold: parties that must take part to the end; more than two thirds.
        minimum_users: users that must be in the sum.
        bits, length: of the masked vector.
        terms: what the vectors are and how they were noised, for the parties to compare.

    Raises:
        MmfedError: any of them is out of range.
    """

    run_id: str
    round_number: int
    nonce: bytes
    parties: tuple[bytes, ...]
    users: tuple[int, ...]
    threshold: int
    minimum_users: int
    bits: int
    length: int
    terms: str = ""

    def __post_init__(self) -> None:
        count = len(self.parties)
        if count < SMALLEST_COHORT:
            raise too_few(f"{count} parties were asked, of whom {SMALLEST_COHORT} at least are needed")
        if any(len(key) != 32 for key in self.parties) or list(self.parties) != sorted(set(self.parties)):
            raise refusal("the parties of a round are not distinct public keys in ascending order")
        if len(self.users) != count or min(self.users) < 1:
            raise refusal("a party of the round stands for no user")
        if not least_threshold(count) <= self.threshold <= count:
            raise refusal(f"threshold {self.threshold} of {count} parties is not above two thirds")
        if not 1 <= self.minimum_users <= sum(self.users):
            raise refusal(f"{self.minimum_users} users cannot survive of {sum(self.users)}")
        if len(self.nonce) != NONCE_BYTES or self.length < 1 or self.round_number < 0:
            raise refusal("the description of the round is damaged")
        Ring(self.bits)

    @property
    def ring(self) -> Ring:
        """Where the vectors live."""
        return Ring(self.bits)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over all fields."""
        return hashlib.sha256(json.dumps(self.to_plain(), sort_keys=True).encode()).digest()

    @cached_property
    def _points(self) -> dict[bytes, int]:
        return {party: place for place, party in enumerate(self.parties, start=1)}

    def point(self, party: bytes) -> int:
        """A party's place, from 1: where its Shamir shares are taken.

        Raises:
            MmfedError: it is not one of the round.
        """
        try:
            return self._points[party]
        except KeyError:
            raise refusal(f"{name(party)} is not a party of this round") from None

    def check_enough(self, parties: Iterable[bytes], doing: str, *, in_sum: bool = True) -> None:
        """Refuse a set of parties below the threshold or, where they are to be in the sum, with too few users.

        Raises:
            MmfedError: too few, or a party that was not asked.
        """
        chosen = set(parties)
        users = sum(self.users[self.point(party) - 1] for party in chosen)
        if len(chosen) < self.threshold or (in_sum and users < self.minimum_users):
            raise too_few(
                f"{len(chosen)} parties ({users} users) {doing}; {self.threshold} parties and "
                f"{self.minimum_users} users are needed"
            )

    def to_plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "run": self.run_id,
            "round": self.round_number,
            "nonce": self.nonce.hex(),
            "parties": [key.hex() for key in self.parties],
            "users": list(self.users),
            "threshold": self.threshold,
            "minimum_users": self.minimum_users,
            "bits": self.bits,
            "length": self.length,
            "terms": self.terms,
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> RoundContext:
        """Inverse of ``to_plain``.

        Raises:
            MmfedError: it is none.
        """
        try:
            return cls(
                run_id=str(plain["run"]),
                round_number=int(plain["round"]),
                nonce=bytes.fromhex(plain["nonce"]),
                parties=tuple(bytes.fromhex(key) for key in plain["parties"]),
                users=tuple(int(count) for count in plain["users"]),
                threshold=int(plain["threshold"]),
                minimum_users=int(plain["minimum_users"]),
                bits=int(plain["bits"]),
                length=int(plain["length"]),
                terms=str(plain["terms"]),
            )
        except (KeyError, TypeError, ValueError):
            raise refusal("the description of the round is damaged") from None


def least_threshold(parties: int) -> int:
    """⌊2n / 3⌋ + 1: with fewer than a third of the parties colluding, no two answers to one question can both get
    enough shares (Bonawitz et al. 2017, theorem 6.5)."""
    return 2 * parties // 3 + 1


def name(party: bytes) -> str:
    """A party in a message to people."""
    return f"party {party.hex()[:12]}"
