"""A device's own account in mode ``user-distributed``: charged before the masked vector leaves, whatever becomes of it.

The device cannot know whether its vector is in the sum, or whether the round is given up after it: it counts every
vector that left. Its ε is therefore at least the coordinator's.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.lifetime import Lifetime
from mmfed.federated.tasks import Task
from mmfed.privacy.budget_lines import refusal
from mmfed.privacy.distributed import DistributedNoise
from mmfed.privacy.events import LedgerHeader, Line, header_for, result_hash
from mmfed.privacy.ledger import Ledger
from mmfed.privacy.mechanisms import SecureNoise, SeededNoise
from mmfed.privacy.skellam_event import SkellamEvent
from mmfed.privacy.units import guarantee_for
from mmfed.types import IntArray


class SecureAccount:
    """One user's ledger, in the format of all others.

    Args:
        folder: the node's private folder.
        key: the user's key.
        task: the round's work.
        noise: of the round.
        signer: the node's identity.
        lifetime: the owner's bound on ε over all runs; None for none.
        line: of the budget.
    """

    def __init__(
        self,
        folder: Path,
        key: int,
        task: Task,
        noise: DistributedNoise,
        signer: Ed25519PrivateKey,
        lifetime: Lifetime | None = None,
        line: Line = "model",
    ) -> None:
        privacy = task.config.privacy
        self._path = folder / "ledgers" / f"{key:016x}.jsonl"
        self._task, self._key, self._noise, self._signer, self._lifetime = task, key, noise, signer, lifetime
        self._line: Line = line
        source = SeededNoise(0).name if privacy.noise_source == "seeded" else SecureNoise().name
        header = _header(task.run_id, task.population, privacy.delta, privacy.epsilon, source)
        self._header = replace(header, run_id=f"{task.run_id}/{key:016x}")

    def charge(self, encoded: IntArray) -> None:
        """Make the charge of one noised contribution durable; only then may it leave, masked.

        Raises:
            MmfedError: the target would be passed (the refusal is written down), or the ledger cannot be written.
        """
        event = SkellamEvent.of(
            self._noise, round_number=self._task.round_number, digest=result_hash(encoded), line=self._line
        )
        lock = nullcontext() if self._lifetime is None else self._lifetime.locked()
        with lock, Ledger.resume(self._path, self._header, self._signer) as ledger:
            reason = None if ledger.is_charged(event) else self._refusal(ledger, event)
            if reason is not None:
                ledger.refuse(reason, by="device", round_number=self._task.round_number)
                raise MmfedError(
                    ExitCode.PRIVACY,
                    f"a device's budget is spent: {reason}.",
                    "nothing was sent; a new run has a new budget.",
                )
            ledger.charge(event)

    def _refusal(self, ledger: Ledger, event: SkellamEvent) -> str | None:
        """Which of the device's bounds this charge would pass: its line's, its owner's over all runs, the target."""
        privacy, release = self._task.config.privacy, event.release()
        reason = refusal(ledger, [event], privacy.lines.model_dump())
        if reason is None and self._lifetime is not None:
            reason = self._lifetime.refusal(self._key, privacy.mode, release)
        after = ledger.accountant.epsilon_after(release).value
        if reason is None and privacy.epsilon is not None and after > privacy.epsilon:
            reason = f"this round would bring epsilon to {after:.4f}, above the target {privacy.epsilon:g}"
        return reason


@lru_cache(maxsize=8)
def _header(run_id: str, population: int, delta: float | None, epsilon: float | None, noise: str) -> LedgerHeader:
    """The header all devices of a run share, but for the run id (cached: it hashes everything installed)."""
    return header_for(
        guarantee_for("user-distributed", population=population, delta=delta),
        run_id=run_id,
        population=population,
        population_basis="users enrolled when the run started, as told by the coordinator",
        target_epsilon=epsilon,
        noise_source=noise,
    )
