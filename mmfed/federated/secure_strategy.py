"""The coordinator side of mode ``user-distributed``: a round by secure aggregation, and its mean in the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid

from mmfed.federated import faults, tasks, wire
from mmfed.federated.sampling import fixed_cohort
from mmfed.federated.secure_exchange import SecureExchange
from mmfed.federated.secure_release import SecureRelease
from mmfed.federated.strategy import CohortStrategy
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

    def exchange(self, server_round: int, arrays: ArrayRecord, grid: Grid) -> tuple[ArrayRecord, MetricRecord]:
        """The mean update of a round, noised by the devices and charged.

        Raises:
            MmfedError: the budget is exhausted, or too few devices stay to the end; nothing is released.
        """
        self._secure.admit(server_round)
        self._asked = self._draw(server_round)
        exchange = SecureExchange(grid, self._config, self._identities)
        work = {node: self._task(server_round, users) for node, users in self._asked.items()}
        total, survivors = exchange.total(self._secure.noise, work, arrays)
        if exchange.lost:
            told = faults.condensed(f"node {node}: {why}" for node, why in exchange.lost.items())
            _log.warning("round %d: %s", server_round, told)
        users = sum(len(self._asked[node]) for node in survivors)
        mean = self._secure.decoded(total, run_id=self._run_id, round_number=server_round, users=users)
        encoded = wire.encode(wire.unflatten(mean, self._shapes), self._shapes, dtype=np.float64)
        return encoded, MetricRecord({"realised": users, "refused-nodes": len(exchange.lost)})

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
