"""The one-shot release where devices add the noise: sums that already hold it when the coordinator sees them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import numpy as np

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import faults
from mmfed.federated.one_shot import OneShotRound
from mmfed.federated.one_shot_sum import OneShotSum, check_charged
from mmfed.federated.one_shot_terms import LINES, ROUND, sum_name
from mmfed.federated.secure_exchange import SecureExchange
from mmfed.privacy.budget import Budget
from mmfed.privacy.budget_lines import admit
from mmfed.privacy.distributed import DistributedNoise
from mmfed.privacy.events import result_hash
from mmfed.privacy.ledger import Ledger
from mmfed.privacy.one_shot_local import LocalOneShotPlan
from mmfed.privacy.one_shot_shares import SharedOneShotPlan
from mmfed.privacy.skellam_event import SkellamEvent
from mmfed.types import IntArray

_log = logging.getLogger(__name__)


class LocalOneShotRelease:
    """Mode ``user-local``: plain sums of vectors that every device bounded, noised and charged alone.

    The coordinator keeps no ledger in this mode and promises nothing of its own.
    """

    def __init__(self, plan: LocalOneShotPlan) -> None:
        self._noises = plan.noise_multipliers()

    @property
    def pairs(self) -> bool:
        """Whether the devices have budget for the co-occurrence."""
        return "cooccurrence" in self._noises

    def check_charged(self, kept: OneShotSum) -> None:
        """Nothing to compare: the charges are on the devices."""

    def released(self, asked: OneShotRound, covered: IntArray | None) -> OneShotSum:
        """Popularity (None), or the co-occurrence of some items, with the noise of every device in it.

        Raises:
            MmfedError: no device gives its vector.
        """
        name = sum_name(covered)
        total, realised = asked.total(covered, noise_multiplier=self._noises[name])
        items = np.arange(0) if covered is None else covered
        return OneShotSum(asked.item_count, {name: total}, items, {name: self._noises[name] * math.sqrt(realised)})


class SharedOneShotRelease:
    """Mode ``user-distributed``: sums under secure aggregation, with the devices' shares of the noise in them.

    Unit: one user; adjacency: zero-out; the server is honest but curious. Each sum is charged before it is used:
    popularity on the line "statistics", co-occurrence on the line "model", both at round 0. A run that dies between the
    charge and the file asks again; seeded noise gives the same sum, which costs nothing more, any other is charged in
    full or refused, here and on every device.

    Args:
        identities: ed25519 public key of every node; empty where masks are skipped.
    """

    def __init__(
        self, config: Config, plan: SharedOneShotPlan, ledger: Ledger, identities: Mapping[int, bytes]
    ) -> None:
        self._config, self._plan, self._ledger, self._identities = config, plan, ledger, identities
        target = config.privacy.epsilon
        self._budget = None if target is None else Budget(target_epsilon=target, ledger=ledger)

    @property
    def pairs(self) -> bool:
        """Whether there is budget for the co-occurrence."""
        return "cooccurrence" in self._plan.noises

    def check_charged(self, kept: OneShotSum) -> None:
        """Refuse sums that the ledger does not know.

        Raises:
            MmfedError: names the sum.
        """
        check_charged(self._ledger, self._plan.releases(), kept)

    def released(self, asked: OneShotRound, covered: IntArray | None) -> OneShotSum:
        """Popularity (None), or the co-occurrence of some items, charged.

        Raises:
            MmfedError: too few users stay to the end (nothing is released then), or the budget has no room.
        """
        name = sum_name(covered)
        noise = self._plan.noises[name]
        paid = any((e.kind, e.body.get("round"), e.body.get("line")) == ("release", ROUND, LINES[name])
                   for e in self._ledger.events)  # fmt: skip
        if not paid:  # before anybody is asked; what was charged before is compared below
            self._admit(_event(name, noise, noise.cohort, "0" * 64))
        exchange = SecureExchange(asked.grid, asked.config, self._identities)
        nodes = {node: users for node, users in asked.nodes.items() if len(users)}
        work = {node: asked.task(users, covered, noise.noise_multiplier) for node, users in nodes.items()}
        total, survivors = exchange.total(noise, work)
        if exchange.lost:
            told = faults.condensed(f"node {node}: {why}" for node, why in exchange.lost.items())
            _log.warning("the one-shot round goes on without %s", told)
        users = sum(len(nodes[node]) for node in survivors)
        if users < noise.minimum:
            raise MmfedError(
                ExitCode.PRIVACY,
                f"the one-shot round: {users} users of the {noise.minimum} needed; nothing was released.",
                "start again when more devices are there, or lower privacy.minimum_survivors in a new run.",
            )
        vector = noise.decode(total, run_id=asked.run_id, round_number=ROUND)
        event = _event(name, noise, users, result_hash(vector))
        if not self._ledger.is_charged(event):
            self._admit(event)
            self._ledger.charge(event)
        items = np.arange(0) if covered is None else covered
        return OneShotSum(asked.item_count, {name: vector}, items, {name: noise.deviation(users)})

    def _admit(self, event: SkellamEvent) -> None:
        admit(self._ledger, [event], self._config.privacy.lines.model_dump())
        if self._budget is not None:
            self._budget.admit(event.release(), round_number=ROUND)


def _event(name: str, noise: DistributedNoise, users: int, result: str) -> SkellamEvent:
    return SkellamEvent.of(noise, round_number=ROUND, digest=result, users=users, line=LINES[name])
