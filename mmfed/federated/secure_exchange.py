"""One sum by secure aggregation, as the coordinator gets it: five exchanges of messages, then masks come off."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from mmfed.config import Config
from mmfed.errors import MmfedError
from mmfed.federated import faults, tasks
from mmfed.federated import secure_messages as messages
from mmfed.federated.secure_terms import check_nodes
from mmfed.privacy.distributed import DistributedNoise
from mmfed.privacy.secure_aggregation.advertisement import Advertisement
from mmfed.privacy.secure_aggregation.answer import Answer
from mmfed.privacy.secure_aggregation.context import NONCE_BYTES, RoundContext, least_threshold
from mmfed.privacy.secure_aggregation.coordinator import Coordinator
from mmfed.privacy.secure_aggregation.ring import Ring
from mmfed.privacy.secure_aggregation.sealed_share import SealedShare
from mmfed.types import IntArray


class SecureExchange:
    """Asks nodes for a masked sum; a party is a node.

    With ``privacy.masks = "skipped"`` (simulations) nodes send the same integers without masks.

    Args:
        identities: ed25519 public key of every node; empty where masks are skipped.

    Attributes:
        lost: why a node is not in the last sum, by node.
    """

    def __init__(self, grid: Grid, config: Config, identities: Mapping[int, bytes]) -> None:
        self._grid, self._config, self._identities = grid, config, dict(identities)
        self._tasks: Mapping[int, tasks.Task] = {}
        self.lost: dict[int, str] = {}

    def total(
        self, noise: DistributedNoise, work: Mapping[int, tasks.Task], arrays: ArrayRecord | None = None
    ) -> tuple[IntArray, list[int]]:
        """[width] the sum modulo 2^bits as signed integers, and the nodes in it.

        Args:
            noise: of the sum.
            work: the task of every node asked.
            arrays: the model, where the devices train.

        Raises:
            MmfedError: too few devices stay to the end; nothing is known of any then.
        """
        self.lost, self._tasks = {}, work
        return self._unmasked(noise, arrays) if self._config.privacy.masks == "skipped" else self._masked(noise, arrays)

    def _unmasked(self, noise: DistributedNoise, arrays: ArrayRecord | None) -> tuple[IntArray, list[int]]:
        ring = Ring(noise.bits)
        total = np.zeros(noise.width, dtype=np.uint64)
        replies = self._ask(messages.UNMASKED, {node: {} for node in self._tasks}, ("vector",), arrays)
        for node in sorted(replies):
            total = ring.add(total, ring.unpack(messages.one(replies[node][0]), noise.width))
        return ring.decode(total), list(replies)

    def _masked(self, noise: DistributedNoise, arrays: ArrayRecord | None) -> tuple[IntArray, list[int]]:
        """The five exchanges of ``privacy.secure_aggregation``."""
        context = self._context(noise)
        node_of = {self._identities[node]: node for node in self._tasks}
        coordinator = Coordinator(context)
        named = {"round": context.digest}

        described = {node: {"context": messages.context_bytes(context)} for node in self._tasks}
        replies = self._ask(messages.ADVERTISE, described, ("advertisement",))
        keys = coordinator.advertised(self._read(replies, lambda r: Advertisement.from_bytes(messages.one(r[0]))))

        told = [key.to_bytes() for key in keys]
        asked = {node_of[key.party]: {**named, "advertisements": told} for key in keys}
        replies = self._ask(messages.SHARE, asked, ("shares",))
        shares = coordinator.shared(
            self._read(replies, lambda r: [SealedShare.from_bytes(share) for share in messages.many(r[0])])
        )

        asked = {node_of[p]: {**named, "shares": [one.to_bytes() for one in sealed]} for p, sealed in shares.items()}
        replies = self._ask(messages.MASK, asked, ("vector",), arrays)
        survivors = coordinator.masked(self._read(replies, lambda r: messages.one(r[0])))

        alive = [node_of[party] for party in survivors]
        asked = {node: {**named, "survivors": list(survivors)} for node in alive}
        replies = self._ask(messages.AGREE, asked, ("signature",))
        signatures = coordinator.agreed(self._read(replies, lambda r: messages.one(r[0])))

        question = {**named, "seeds-of": list(survivors), "keys-of": list(coordinator.dropped)}
        question["signatures"] = messages.pairs(signatures)
        asked = dict.fromkeys((node_of[party] for party in signatures), question)
        replies = self._ask(messages.ANSWER, asked, ("seeds", "keys"))
        answers = self._read(replies, lambda r: Answer.from_bytes(messages.one(r[0]), messages.one(r[1])))
        total = coordinator.answered(answers)
        self.lost.update({node_of[party]: why for party, why in coordinator.refused.items()})
        return total, alive

    def _context(self, noise: DistributedNoise) -> RoundContext:
        one = next(iter(self._tasks.values()))
        check_nodes(self._config, len(self._tasks), round_number=one.round_number)
        order = sorted(self._tasks, key=lambda node: self._identities[node])
        return RoundContext(
            run_id=one.run_id,
            round_number=one.round_number,
            nonce=secrets.token_bytes(NONCE_BYTES),
            parties=tuple(self._identities[node] for node in order),
            users=tuple(len(self._tasks[node].users) for node in order),
            threshold=least_threshold(len(order)),
            minimum_users=noise.minimum,
            bits=noise.bits,
            length=noise.width,
            terms=noise.terms(),
        )

    def _ask(
        self,
        kind: str,
        asked: Mapping[int, Mapping[str, Any]],
        wanted: tuple[str, ...],
        arrays: ArrayRecord | None = None,
    ) -> dict[int, list[Any]]:
        """The fields of every reply that holds up, by node; the other nodes are lost for this round."""
        sent = []
        for node, fields in asked.items():
            content = messages.asking(self._tasks[node], fields, arrays)
            sent.append(self._grid.create_message(content, kind, node, str(self._tasks[node].round_number)))
        found: dict[int, list[Any]] = {}
        for reply in self._grid.send_and_receive(sent, timeout=self._config.federation.round_timeout):
            node = reply.metadata.src_node_id
            if node not in asked or node in found:
                continue
            if reply.has_error():
                self.lost[node] = faults.reason(reply.error)
                continue
            try:
                found[node] = messages.fields_of(reply.content, *wanted)
            except MmfedError as fault:
                self.lost[node] = fault.message
        for node in asked:
            if node not in found:
                self.lost.setdefault(node, f"no reply to {kind.partition('_')[2]}")
        return found

    def _read(self, replies: Mapping[int, list[Any]], reader: Any) -> dict[bytes, Any]:
        """Replies by party, read; a node whose reply cannot be read is lost."""
        found = {}
        for node, fields in replies.items():
            try:
                found[self._identities[node]] = reader(fields)
            except MmfedError as fault:
                self.lost[node] = fault.message
        return found
