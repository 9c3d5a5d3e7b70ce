"""From the sum of a round to the mean that may be used: noise where the coordinator adds it, and the charge for it."""

from __future__ import annotations

import numpy as np

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.accounting import GaussianRelease
from mmfed.privacy.budget import Budget
from mmfed.privacy.ledger import Ledger, ReleaseEvent, result_hash
from mmfed.privacy.mechanisms import GaussianMechanism
from mmfed.types import FloatArray


class Release:
    """The privacy mode's way from sum to mean.

    - ``none``, ``record`` and ``user-local``: the plain mean over the users in the sum (in the latter two the devices
      added noise and charged it themselves).
    - ``user-central``: one Gaussian draw on the sum, divided by the planned cohort, charged before it is used.

    Args:
        config: of the run.
        mechanism: user-central only.
        ledger: user-central only.
    """

    def __init__(self, config: Config, mechanism: GaussianMechanism | None, ledger: Ledger | None) -> None:
        self._privacy = config.privacy
        self._mechanism = mechanism
        self._ledger = ledger
        target = config.privacy.epsilon
        self._budget = (
            Budget(target_epsilon=target, ledger=ledger) if ledger is not None and target is not None else None
        )

    def check_norm(self, vector: FloatArray, users: int) -> None:
        """Refuse a sum that ``users`` clipped updates cannot make (a broken or hostile node).

        Raises:
            MmfedError: the norm is too large.
        """
        if self._mechanism is None:
            return
        with np.errstate(over="ignore"):  # a norm that overflows is infinite, and too large
            norm = float(np.linalg.norm(vector))
        bound = users * self._mechanism.clip_norm
        if norm > bound * (1 + 1e-4):
            raise MmfedError(
                ExitCode.FEDERATION,
                f"update of norm {norm:.4g} exceeds {users} x clip norm {self._mechanism.clip_norm:g}",
                "the node does not clip; it is left out.",
            )

    def mean(
        self, total: FloatArray, *, round_number: int, rate: float, planned: int, realised: int, dropouts: int
    ) -> FloatArray:
        """The mean update of a round.

        Raises:
            MmfedError: the budget is exhausted or the charge cannot be made durable; nothing is released then.
        """
        if self._mechanism is None or self._ledger is None:
            return total / max(realised, 1)
        kind = GaussianRelease(
            noise_multiplier=self._mechanism.noise_multiplier,
            sampling="poisson" if rate < 1 else "full",
            sampling_rate=rate,
        )
        noised = self._mechanism.release(
            total, planned_cohort=planned, round_number=round_number, contributors=realised
        )
        event = ReleaseEvent(
            round=round_number,
            clip_norm=self._mechanism.clip_norm,
            noise_multiplier=kind.noise_multiplier,
            sampling=kind.sampling,
            sampling_rate=kind.sampling_rate,
            planned_cohort=planned,
            realised_cohort=realised,
            dropouts=dropouts,
            result_hash=result_hash(noised),
        )
        if self._budget is not None and not self._ledger.is_charged(event):
            self._budget.admit(kind, round_number=round_number)
        self._ledger.charge(event)
        return noised

    def spent(self) -> float | None:
        """ε charged so far by the coordinator, nats; None where it has no account."""
        return None if self._ledger is None else self._ledger.spent().value
