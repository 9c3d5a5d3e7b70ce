"""A device's side of one round: five steps, each taken once, in order; any refusal ends the round for the device.

It gives the server one of two things about every peer, never both: a share of the peer's own mask's seed (the peer
survived) or a share of its mask key (it dropped out). Which one is fixed before it answers, by the survivors that at
least ``threshold`` parties have signed.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mmfed.privacy.secure_aggregation.advertisement import Advertisement, advertise
from mmfed.privacy.secure_aggregation.answer import Answer
from mmfed.privacy.secure_aggregation.context import RoundContext, name
from mmfed.privacy.secure_aggregation.key_agreement import agree, public_of
from mmfed.privacy.secure_aggregation.masks import SEED_BYTES, mask
from mmfed.privacy.secure_aggregation.refusal import refusal
from mmfed.privacy.secure_aggregation.roster import Roster, sign, signed_by
from mmfed.privacy.secure_aggregation.sealed_share import SealedShare, seal, unseal
from mmfed.privacy.secure_aggregation.shamir import split
from mmfed.types import IntArray

SURVIVORS = "survivors"
Stage = Literal["new", "advertised", "shared", "masked", "agreed", "done", "closed"]


@dataclass
class _Secrets:
    """What a device holds between two steps; hex where bytes, so that it is JSON as it stands."""

    sealing: str = ""
    mask: str = ""
    seed: str = ""
    peers: dict[str, str] = field(default_factory=dict)  # advertisements
    shares: dict[str, tuple[str, str]] = field(default_factory=dict)  # of the peers' mask keys and seeds
    survivors: list[str] = field(default_factory=list)


class Device:
    """One round on one device.

    Args:
        identity: the device's long-lived ed25519 key; in the roster.
        roster: the peers it accepts.
        context: the round, as the server describes it.

    Raises:
        MmfedError: the round has a party outside the roster, or this device is not one of its parties.
    """

    def __init__(self, identity: Ed25519PrivateKey, roster: Roster, context: RoundContext) -> None:
        roster.check(context)
        self.context = context
        self.party = identity.public_key().public_bytes_raw()
        self.point = context.point(self.party)
        self.stage: Stage = "new"
        self._identity = identity
        self._held = _Secrets()

    def advertise(self) -> Advertisement:
        """Step 1: fresh keys for this round."""
        self._begin("new")
        held = self._held
        sealing, own, seed = (secrets.token_bytes(SEED_BYTES) for _ in range(3))
        held.sealing, held.mask, held.seed = sealing.hex(), own.hex(), seed.hex()
        found = advertise(
            self._identity, self.context, sealing_key=public_of(sealing), mask_key=public_of(own), seed=seed
        )
        held.peers[self.party.hex()] = found.to_bytes().hex()
        self.stage = "advertised"
        return found

    def share(self, advertisements: Iterable[Advertisement]) -> list[SealedShare]:
        """Step 2: a share of both secrets for every peer that advertised.

        Raises:
            MmfedError: a forged, replayed or repeated key, own keys changed, or too few parties.
        """
        self._begin("advertised")
        held, context = self._held, self.context
        found = list(advertisements)
        for one in found:
            one.check(context)
        public = [key for one in found for key in (one.sealing_key, one.mask_key)]
        if len({one.party for one in found}) != len(found) or len(set(public)) != len(public):
            raise refusal("a party or a key is named twice")
        peers = {one.party: one for one in found}
        own = Advertisement.from_bytes(bytes.fromhex(held.peers[self.party.hex()]))
        if peers.get(self.party) != own:
            raise refusal("the server does not pass on this device's own keys")
        context.check_enough(peers, "advertised keys")
        count, sealing = len(context.parties), bytes.fromhex(held.sealing)
        of_key = split(bytes.fromhex(held.mask), count=count, threshold=context.threshold)
        of_seed = split(bytes.fromhex(held.seed), count=count, threshold=context.threshold)
        held.peers = {party.hex(): one.to_bytes().hex() for party, one in peers.items()}
        held.shares[self.party.hex()] = (of_key[self.point - 1].hex(), of_seed[self.point - 1].hex())
        sealed = [
            seal(
                of_key[context.point(peer) - 1],
                of_seed[context.point(peer) - 1],
                sender=self.party,
                receiver=peer,
                private=sealing,
                public=one.sealing_key,
                context=context,
            )
            for peer, one in sorted(peers.items())
            if peer != self.party
        ]
        self.stage = "shared"
        return sealed

    def mask(self, shares: Sequence[SealedShare], vector: IntArray) -> bytes:
        """Step 3: the vector plus the own mask plus one mask, added or subtracted, for every peer that shared.

        Args:
            shares: from those peers to this device.
            vector: [length] signed integers; taken modulo 2^bits.

        Raises:
            MmfedError: a share that does not open, from a stranger or repeated; too few parties; a wrong length.
        """
        self._begin("shared")
        held, context, ring = self._held, self.context, self.context.ring
        if vector.shape != (context.length,):
            raise refusal(f"a vector of shape {vector.shape} instead of ({context.length},)")
        if len({one.sender for one in shares}) != len(shares):
            raise refusal("a peer's share came twice")
        context.check_enough({self.party, *(one.sender for one in shares)}, "shared their secrets")
        sealing, own = bytes.fromhex(held.sealing), bytes.fromhex(held.mask)
        total = ring.add(ring.encode(vector), mask(bytes.fromhex(held.seed), context.length, ring))
        for one in shares:
            peer = self._peer(one.sender)
            if one.receiver != self.party or one.sender == self.party:
                raise refusal("a share meant for somebody else")
            opened = unseal(one, private=sealing, public=peer.sealing_key, context=context)
            held.shares[one.sender.hex()] = (opened[0].hex(), opened[1].hex())
            pair = mask(agree(own, peer.mask_key, purpose="mask", context=context), context.length, ring)
            add = self.point < context.point(one.sender)
            total = ring.add(total, pair) if add else ring.subtract(total, pair)
        held.sealing = held.mask = held.seed = ""
        self.stage = "masked"
        return ring.pack(total)

    def agree(self, survivors: Iterable[bytes]) -> bytes:
        """Step 4: a signature under the list of parties whose masked vectors arrived.

        Raises:
            MmfedError: too few, a party that had not shared, or without this device.
        """
        self._begin("masked")
        chosen = set(survivors)
        if self.party not in chosen or not chosen <= self._shared:
            raise refusal("the survivors do not fit the parties of the round")
        self.context.check_enough(chosen, "survived")
        self._held.survivors = sorted(party.hex() for party in chosen)
        self.stage = "agreed"
        return sign(self._identity, SURVIVORS, self.context, survivor_list(chosen))

    def answer(self, seeds_of: Iterable[bytes], keys_of: Iterable[bytes], agreed: Mapping[bytes, bytes]) -> Answer:
        """Step 5: the shares that take the masks off the sum.

        Args:
            seeds_of: the survivors.
            keys_of: parties that shared and whose vector did not arrive.
            agreed: signatures under the survivors, by party.

        Raises:
            MmfedError: both questions about one party, another list than agreed, or too few or wrong signatures.
        """
        self._begin("agreed")
        seeds, keys = set(seeds_of), set(keys_of)
        survivors = {bytes.fromhex(party) for party in self._held.survivors}
        if both := seeds & keys:
            raise refusal(f"the server asks for both secrets of {name(min(both))}, which would bare its vector")
        if seeds != survivors or keys != self._shared - survivors:
            raise refusal("the server asks about other parties than those that were agreed on")
        content = survivor_list(survivors)
        for party, signature in agreed.items():
            if party not in survivors or not signed_by(party, signature, SURVIVORS, self.context, content):
                raise refusal(f"{name(party)} did not sign these survivors")
        self.context.check_enough(agreed, "signed the survivors", in_sum=False)
        shares = {bytes.fromhex(party): pair for party, pair in self._held.shares.items()}
        found = Answer(
            {party: bytes.fromhex(shares[party][1]) for party in seeds},
            {party: bytes.fromhex(shares[party][0]) for party in keys},
        )
        self._held = _Secrets()
        self.stage = "done"
        return found

    def to_bytes(self) -> bytes:
        """Everything needed to take the next step in another process. It holds secrets of this round."""
        plain = {"stage": self.stage, "context": self.context.to_plain(), "held": vars(self._held)}
        return json.dumps(plain, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes, identity: Ed25519PrivateKey, roster: Roster) -> Device:
        """Inverse of ``to_bytes``."""
        plain: dict[str, Any] = json.loads(data)
        device = cls(identity, roster, RoundContext.from_plain(plain["context"]))
        device.stage = plain["stage"]
        device._held = _Secrets(**plain["held"])
        return device

    def close(self) -> None:
        """Give the round up and forget its secrets."""
        self.stage = "closed"
        self._held = _Secrets()

    @property
    def _shared(self) -> set[bytes]:
        return {bytes.fromhex(party) for party in self._held.shares}

    def _peer(self, party: bytes) -> Advertisement:
        if party.hex() not in self._held.peers:
            raise refusal(f"{name(party)} has not advertised")
        return Advertisement.from_bytes(bytes.fromhex(self._held.peers[party.hex()]))

    def _begin(self, expected: Stage) -> None:
        """Take a step, which stays unfinished unless it ends: what fails half-way is not tried again."""
        found, self.stage = self.stage, "closed"
        if found != expected:
            raise refusal(f"a step out of order: this device's round is {found}, not {expected}")


def survivor_list(survivors: Iterable[bytes]) -> bytes:
    """What is signed about survivors."""
    return b"".join(sorted(survivors))
