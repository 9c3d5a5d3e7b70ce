"""The server's side of one round: passes messages on, sums masked vectors, takes the masks off the sum.

Replies that do not hold up leave their party out; below the threshold the round is given up and nothing is released.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mmfed.errors import MmfedError
from mmfed.privacy.secure_aggregation.advertisement import Advertisement, commitment_to
from mmfed.privacy.secure_aggregation.answer import Answer
from mmfed.privacy.secure_aggregation.context import RoundContext, name
from mmfed.privacy.secure_aggregation.device import SURVIVORS, survivor_list
from mmfed.privacy.secure_aggregation.key_agreement import agree, public_of
from mmfed.privacy.secure_aggregation.masks import mask
from mmfed.privacy.secure_aggregation.recovery import recover
from mmfed.privacy.secure_aggregation.refusal import refusal, too_few
from mmfed.privacy.secure_aggregation.roster import signed_by
from mmfed.privacy.secure_aggregation.sealed_share import SealedShare
from mmfed.types import IntArray

_STEPS = ("advertised", "shared", "masked", "agreed", "answered", "no further step")


class Coordinator:
    """One round on the server.

    Attributes:
        refused: why a party's reply was not taken, by party.
    """

    def __init__(self, context: RoundContext) -> None:
        self.context = context
        self.refused: dict[bytes, str] = {}
        self._step = 0
        self._keys: dict[bytes, Advertisement] = {}
        self._sharers: frozenset[bytes] = frozenset()
        self._survivors: frozenset[bytes] = frozenset()
        self._total: IntArray = np.zeros(context.length, dtype=np.uint64)

    def advertised(self, replies: Mapping[bytes, Advertisement]) -> tuple[Advertisement, ...]:
        """Step 1: the keys to pass on to every party that advertised."""
        self._take("advertised")
        used: set[bytes] = set()
        for party, found in sorted(replies.items()):
            try:
                found.check(self.context)
                keys = {found.sealing_key, found.mask_key}
                if found.party != party or len(keys) != 2 or keys & used:
                    raise refusal("keys of another party")
            except MmfedError as fault:
                self._refuse(party, fault)
                continue
            used |= keys
            self._keys[party] = found
        self.context.check_enough(self._keys, "advertised keys")
        return tuple(self._keys.values())

    def shared(self, replies: Mapping[bytes, Sequence[SealedShare]]) -> dict[bytes, list[SealedShare]]:
        """Step 2: the sealed shares to pass on, by receiver."""
        self._take("shared")
        held: dict[bytes, dict[bytes, SealedShare]] = {}
        for party, found in sorted(replies.items()):
            receivers = {share.receiver: share for share in found}
            expected = set(self._keys) - {party}
            whole = party in self._keys and len(found) == len(receivers) and set(receivers) == expected
            if not whole or any(share.sender != party for share in found):
                self._refuse(party, refusal("not one share for every peer"))
                continue
            held[party] = receivers
        self.context.check_enough(held, "shared their secrets")
        self._sharers = frozenset(held)
        return {party: [held[peer][party] for peer in sorted(held) if peer != party] for party in held}

    def masked(self, replies: Mapping[bytes, bytes]) -> tuple[bytes, ...]:
        """Step 3: the survivors, whose vectors are in the sum from now on."""
        self._take("masked")
        ring, survivors = self.context.ring, set()
        for party, data in sorted(replies.items()):
            try:
                if party not in self._sharers:
                    raise refusal("a vector of a party that had not shared")
                vector = ring.unpack(data, self.context.length)
            except MmfedError as fault:
                self._refuse(party, fault)
                continue
            self._total = ring.add(self._total, vector)
            survivors.add(party)
        self.context.check_enough(survivors, "survived")
        self._survivors = frozenset(survivors)
        return tuple(sorted(survivors))

    def agreed(self, replies: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Step 4: the signatures to pass on."""
        self._take("agreed")
        content, held = survivor_list(self._survivors), {}
        for party, signature in sorted(replies.items()):
            if party in self._survivors and signed_by(party, signature, SURVIVORS, self.context, content):
                held[party] = signature
            else:
                self._refuse(party, refusal("a signature that does not hold"))
        self.context.check_enough(held, "signed the survivors", in_sum=False)
        return held

    @property
    def dropped(self) -> tuple[bytes, ...]:
        """Parties that shared and whose vector did not arrive: their masks are still in the sum."""
        return tuple(sorted(self._sharers - self._survivors))

    @property
    def users(self) -> int:
        """Users in the sum."""
        return sum(self.context.users[self.context.point(party) - 1] for party in self._survivors)

    def answered(self, replies: Mapping[bytes, Answer]) -> IntArray:
        """Step 5: [length] int64, the sum of the survivors' vectors; it exists in clear from here on.

        Raises:
            MmfedError: too few answers, or too many wrong ones; the sum stays masked.
        """
        self._take("answered")
        held = {}
        for party, answer in sorted(replies.items()):
            fits = set(answer.seeds) == self._survivors and set(answer.keys) == set(self.dropped)
            if party in self._survivors and fits:
                held[party] = answer
            else:
                self._refuse(party, refusal("an answer to another question"))
        self.context.check_enough(held, "answered", in_sum=False)
        ring, length, total = self.context.ring, self.context.length, self._total
        for party in sorted(self._survivors):
            shares = {self.context.point(one): answer.seeds[party] for one, answer in held.items()}
            commitment = self._keys[party].commitment
            seed = self._recover(party, shares, lambda s, p=party, c=commitment: commitment_to(s, p, self.context) == c)
            total = ring.subtract(total, mask(seed, length, ring))
        for party in self.dropped:
            shares = {self.context.point(one): answer.keys[party] for one, answer in held.items()}
            public = self._keys[party].mask_key
            private = self._recover(party, shares, lambda s, k=public: public_of(s) == k)
            total = self._without_pairs(total, party, private)
        return ring.decode(total)

    def _without_pairs(self, total: IntArray, party: bytes, private: bytes) -> IntArray:
        """The sum without the masks that the survivors share with one party that dropped out."""
        context, ring = self.context, self.context.ring
        for survivor in sorted(self._survivors):
            secret = agree(private, self._keys[survivor].mask_key, purpose="mask", context=context)
            pair = mask(secret, context.length, ring)
            added = context.point(survivor) < context.point(party)
            total = ring.subtract(total, pair) if added else ring.add(total, pair)
        return total

    def _recover(self, party: bytes, shares: dict[int, bytes], holds: Callable[[bytes], bool]) -> bytes:
        found = recover(shares, self.context.threshold, holds)
        if found is None:
            raise too_few(f"the shares of {name(party)}'s secret do not fit together")
        secret, wrong = found
        for point in wrong:
            self._refuse(self.context.parties[point - 1], refusal("a wrong share"))
        return secret

    def _refuse(self, party: bytes, fault: MmfedError) -> None:
        self.refused[party] = fault.message

    def _take(self, step: str) -> None:
        if _STEPS[self._step] != step:
            raise refusal(f"step {step} when {_STEPS[self._step]} is due")
        self._step += 1
