"""The coordinator side of mode ``user-distributed``: five exchanges a round, and a sum in the end."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid

from mmfed.errors import MmfedError
from mmfed.federated import faults, tasks, wire
from mmfed.federated import secure_messages as messages
from mmfed.federated.sampling import fixed_cohort
from mmfed.federated.secure_release import SecureRelease
from mmfed.federated.secure_terms import check_nodes
from mmfed.federated.strategy import CohortStrategy
from mmfed.privacy.secure_aggregation.advertisement import Advertisement
from mmfed.privacy.secure_aggregation.answer import Answer
from mmfed.privacy.secure_aggregation.context import NONCE_BYTES, RoundContext, least_threshold
from mmfed.privacy.secure_aggregation.coordinator import Coordinator
from mmfed.privacy.secure_aggregation.ring import Ring
from mmfed.privacy.secure_aggregation.sealed_share import SealedShare
from mmfed.types import IntArray

_log = logging.getLogger(__name__)


class SecureStrategy(CohortStrategy):
    """Rounds of secure aggregation; a party is a node.

    A cohort has a fixed size and is drawn without claiming amplification: the server sees it. With
    ``privacy.masks = "skipped"`` (simulations) nodes send the same integers without masks.

    Args:
        secure: decodes and charges.
        identities: ed25519 public key of every node; empty where masks are skipped.
        others: as in ``CohortStrategy``.
    """

    def __init__(self, *, secure: SecureRelease, identities: Mapping[int, bytes], **others: Any) -> None:
        super().__init__(release=secure, **others)
        self._secure = secure
        self._identities = dict(identities)
        self._lost: dict[int, str] = {}
        self._tasks: dict[int, tasks.Task] = {}

    def exchange(self, server_round: int, arrays: ArrayRecord, grid: Grid) -> tuple[ArrayRecord, MetricRecord]:
        """The mean update of a round, noised by the devices and charged.

        Raises:
            MmfedError: the budget is exhausted, or too few devices stay to the end; nothing is released.
        """
        self._secure.admit(server_round)
        self._lost = {}
        self._asked = self._draw(server_round)
        self._tasks = {node: self._task(server_round, users) for node, users in self._asked.items()}
        if self._config.privacy.masks == "skipped":
            total, survivors = self._unmasked(arrays, grid)
        else:
            total, survivors = self._masked(server_round, arrays, grid)
        if self._lost:
            told = faults.condensed(f"node {node}: {why}" for node, why in self._lost.items())
            _log.warning("round %d: %s", server_round, told)
        users = sum(len(self._asked[node]) for node in survivors)
        mean = self._secure.decoded(total, run_id=self._run_id, round_number=server_round, users=users)
        encoded = wire.encode(wire.unflatten(mean, self._shapes), self._shapes, dtype=np.float64)
        return encoded, MetricRecord({"realised": users, "refused-nodes": len(self._lost)})

    def _draw(self, server_round: int) -> dict[int, IntArray]:
        """The users of the round by node, in the order of nodes."""
        everyone = np.concatenate(list(self._nodes.values()))
        chosen = fixed_cohort(
            everyone,
            self._secure.noise.cohort,
            seed=self._config.run.seed,
            round_number=server_round,
            source=self._config.privacy.noise_source,
        )
        held = {node: users[np.isin(users, chosen)] for node, users in self._nodes.items()}
        return {node: users for node, users in held.items() if len(users)}

    def _task(self, server_round: int, users: IntArray) -> tasks.Task:
        return tasks.Task(
            config=self._config,
            run_id=self._run_id,
            population=self.population,
            noise_multiplier=self._noise_multiplier,
            catalogue=self._catalogue,
            round_number=server_round,
            users=users,
        )

    def _unmasked(self, arrays: ArrayRecord, grid: Grid) -> tuple[IntArray, list[int]]:
        noise = self._secure.noise
        ring = Ring(noise.bits)
        total = np.zeros(noise.width, dtype=np.uint64)
        replies = self._ask(grid, messages.UNMASKED, {node: {} for node in self._tasks}, ("vector",), arrays)
        for node in sorted(replies):
            total = ring.add(total, ring.unpack(messages.one(replies[node][0]), noise.width))
        return ring.decode(total), list(replies)

    def _masked(self, server_round: int, arrays: ArrayRecord, grid: Grid) -> tuple[IntArray, list[int]]:
        """The five exchanges of ``privacy.secure_aggregation``."""
        context = self._context(server_round)
        node_of = {self._identities[node]: node for node in self._tasks}
        coordinator = Coordinator(context)
        named = {"round": context.digest}

        described = {node: {"context": messages.context_bytes(context)} for node in self._tasks}
        replies = self._ask(grid, messages.ADVERTISE, described, ("advertisement",))
        keys = coordinator.advertised(self._read(replies, lambda r: Advertisement.from_bytes(messages.one(r[0]))))

        told = [key.to_bytes() for key in keys]
        asked = {node_of[key.party]: {**named, "advertisements": told} for key in keys}
        replies = self._ask(grid, messages.SHARE, asked, ("shares",))
        shares = coordinator.shared(
            self._read(replies, lambda r: [SealedShare.from_bytes(share) for share in messages.many(r[0])])
        )

        asked = {node_of[p]: {**named, "shares": [one.to_bytes() for one in sealed]} for p, sealed in shares.items()}
        replies = self._ask(grid, messages.MASK, asked, ("vector",), arrays)
        survivors = coordinator.masked(self._read(replies, lambda r: messages.one(r[0])))

        alive = [node_of[party] for party in survivors]
        asked = {node: {**named, "survivors": list(survivors)} for node in alive}
        replies = self._ask(grid, messages.AGREE, asked, ("signature",))
        signatures = coordinator.agreed(self._read(replies, lambda r: messages.one(r[0])))

        question = {**named, "seeds-of": list(survivors), "keys-of": list(coordinator.dropped)}
        question["signatures"] = messages.pairs(signatures)
        asked = dict.fromkeys((node_of[party] for party in signatures), question)
        replies = self._ask(grid, messages.ANSWER, asked, ("seeds", "keys"))
        answers = self._read(replies, lambda r: Answer.from_bytes(messages.one(r[0]), messages.one(r[1])))
        total = coordinator.answered(answers)
        self._lost.update({node_of[party]: why for party, why in coordinator.refused.items()})
        return total, alive

    def _context(self, server_round: int) -> RoundContext:
        noise = self._secure.noise
        check_nodes(self._config, len(self._tasks), round_number=server_round)
        order = sorted(self._tasks, key=lambda node: self._identities[node])
        return RoundContext(
            run_id=self._run_id,
            round_number=server_round,
            nonce=secrets.token_bytes(NONCE_BYTES),
            parties=tuple(self._identities[node] for node in order),
            users=tuple(len(self._asked[node]) for node in order),
            threshold=least_threshold(len(order)),
            minimum_users=noise.minimum,
            bits=noise.bits,
            length=noise.width,
            terms=noise.terms(),
        )

    def _ask(
        self,
        grid: Grid,
        kind: str,
        asked: Mapping[int, Mapping[str, Any]],
        wanted: tuple[str, ...],
        arrays: ArrayRecord | None = None,
    ) -> dict[int, list[Any]]:
        """The fields of every reply that holds up, by node; the other nodes are lost for this round."""
        sent = []
        for node, fields in asked.items():
            content = messages.asking(self._tasks[node], fields, arrays)
            sent.append(grid.create_message(content, kind, node, str(self._tasks[node].round_number)))
        found: dict[int, list[Any]] = {}
        for reply in grid.send_and_receive(sent, timeout=self._config.federation.round_timeout):
            node = reply.metadata.src_node_id
            if node not in asked or node in found:
                continue
            if reply.has_error():
                self._lost[node] = faults.reason(reply.error)
                continue
            try:
                found[node] = messages.fields_of(reply.content, *wanted)
            except MmfedError as fault:
                self._lost[node] = fault.message
        for node in asked:
            if node not in found:
                self._lost.setdefault(node, f"no reply to {kind.partition('_')[2]}")
        return found

    def _read(self, replies: Mapping[int, list[Any]], reader: Any) -> dict[bytes, Any]:
        """Replies by party, read; a node whose reply cannot be read is lost."""
        found = {}
        for node, fields in replies.items():
            try:
                found[self._identities[node]] = reader(fields)
            except MmfedError as fault:
                self._lost[node] = fault.message
        return found
