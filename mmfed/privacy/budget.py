"""A privacy filter: it refuses a release that would pass the target, before anything is spent."""

from __future__ import annotations

from typing import Protocol

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.accounting import Accountant, EpsilonEstimate, Release
from mmfed.privacy.units import check_positive


class Refusals(Protocol):
    """Where a refusal is written down: the ledger."""

    @property
    def accountant(self) -> Accountant:
        """What was charged so far, at the header's δ."""
        ...

    def refuse(self, reason: str, *, by: str = "server", round_number: int | None = None) -> int:
        """Record a refusal."""
        ...


class Budget:
    """The target ε of a ledger, at the ledger's δ. Holds no state of its own: what the ledger charged is spent.

    Composition of adaptively chosen Gaussian releases: stopping at a fixed ε target is a valid filter for releases
    whose σ and q are fixed before the run (mmfed's are); no claim is made for parameters chosen from private results.
    """

    def __init__(self, *, target_epsilon: float, ledger: Refusals, by: str = "server") -> None:
        self.target_epsilon = check_positive("target_epsilon", target_epsilon)
        self._ledger = ledger
        self._by = by

    def remaining(self) -> float:
        """ε left, nats, never below 0."""
        return max(0.0, self.target_epsilon - self._ledger.accountant.epsilon().value)

    def admit(
        self, release: Release, *, round_number: int | None = None, replacing: Release | None = None
    ) -> EpsilonEstimate:
        """Let a release through (in place of ``replacing``), or refuse it and write that down. Charges nothing.

        Returns:
            ε as it will be after the release.

        Raises:
            MmfedError: the budget would be exceeded.
        """
        after = self._ledger.accountant.epsilon_after(release, replacing=replacing)
        if after.value <= self.target_epsilon:
            return after
        where = "" if round_number is None else f"round {round_number}: "
        reason = (
            f"{where}budget exhausted: this release would bring epsilon to {after.value:.4f}, "
            f"above the target {self.target_epsilon:g} at delta {self._ledger.accountant.delta:.3g}"
        )
        self._ledger.refuse(reason, by=self._by, round_number=round_number)
        raise MmfedError(
            ExitCode.PRIVACY,
            f"{reason}.",
            "stop here (the model so far stands), or start a new run with more noise or fewer rounds.",
        )
