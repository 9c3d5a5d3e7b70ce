"""A device's own privacy account: it charges before it answers, and refuses when its budget is spent."""

from __future__ import annotations

import secrets
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.tasks import Task
from mmfed.privacy.accounting import GaussianRelease
from mmfed.privacy.keys import load_or_create_key, load_or_create_sealed_key
from mmfed.privacy.ledger import Ledger, LedgerHeader, ReleaseEvent, header_for, result_hash
from mmfed.privacy.mechanisms import NoiseSource, SecureNoise, SeededNoise
from mmfed.privacy.units import guarantee_for
from mmfed.privacy.vault import Vault
from mmfed.rng import derive
from mmfed.types import FloatArray


class DeviceAccount:
    """One user's ledger in record mode: the same file format as the coordinator's, one file per user.

    Args:
        folder: the node's private folder.
        key: the user's key.
        task: the round's work; fixes σ, rate and steps.
        vault: of a real device; keeps the signing key. The ledger itself stays readable for auditors.
    """

    def __init__(self, folder: Path, key: int, task: Task, vault: Vault | None = None) -> None:
        privacy = task.config.privacy
        self._task = task
        self._path = folder / "ledgers" / f"{key:016x}.jsonl"
        pem = folder / "key.pem"
        self._signer = load_or_create_key(pem) if vault is None else load_or_create_sealed_key(pem, vault)
        self._release = GaussianRelease(
            noise_multiplier=task.noise_multiplier,
            sampling="poisson" if privacy.record_sample_rate < 1 else "full",
            sampling_rate=privacy.record_sample_rate,
            count=task.config.training.steps,
        )
        seeded = privacy.noise_source == "seeded"
        seed = derive(task.config.run.seed, "device", key)
        self._source: NoiseSource = SeededNoise(seed) if seeded else SecureNoise()
        self.sample_key = seed if seeded else secrets.randbits(64)
        header = record_header(
            task.run_id,
            task.population,
            privacy.delta,
            privacy.epsilon,
            privacy.window,
            privacy.window_days,
            self._source.name,
        )
        self._header = replace(header, run_id=f"{task.run_id}/{key:016x}")

    def admits(self) -> bool:
        """Whether the budget allows this round; a refusal is written to the ledger.

        A round charged before (the run was killed and repeats it) is let through: ``charge`` will find it unchanged.
        """
        with Ledger.resume(self._path, self._header, self._signer) as ledger:
            charged = any(
                event.kind == "release" and event.body["round"] == self._task.round_number for event in ledger.events
            )
            if charged and self._task.config.privacy.noise_source == "seeded":
                return True
            return self._affords(ledger)

    def noise(self, size: int, purpose: str) -> FloatArray:
        """Standard normal samples of this round."""
        return self._source.standard_normal(size, round_number=self._task.round_number, purpose=purpose)

    def charge(self, update: FloatArray) -> bool:
        """Make the charge of a noised update durable; only then may it leave.

        Returns:
            Whether it may leave: not if a round let through as a repetition gave another result that the budget does
            not allow.

        Raises:
            MmfedError: the ledger cannot be written; nothing may leave.
        """
        if not np.isfinite(update).all():
            raise MmfedError(ExitCode.PRIVACY, "a device's update is not finite.", "lower training.learning_rate.")
        event = ReleaseEvent(
            round=self._task.round_number,
            mechanism="dp-sgd",
            clip_norm=self._task.config.privacy.clip_norm,
            noise_multiplier=self._release.noise_multiplier,
            sampling=self._release.sampling,
            sampling_rate=self._release.sampling_rate,
            steps=self._release.count,
            planned_cohort=1,
            realised_cohort=1,
            noise_added_by="device",
            result_hash=result_hash(update),
        )
        with Ledger.resume(self._path, self._header, self._signer) as ledger:
            if not ledger.is_charged(event) and not self._affords(ledger):
                return False
            ledger.charge(event)
        return True

    def _affords(self, ledger: Ledger) -> bool:
        """Whether one more release stays within the target; if not, the refusal is written down."""
        target = self._task.config.privacy.epsilon
        after = ledger.accountant.epsilon_after(self._release).value
        if target is None or after <= target:
            return True
        ledger.refuse(
            f"this round would bring epsilon to {after:.4f}, above the target {target:g}",
            by="device",
            round_number=self._task.round_number,
        )
        return False


@lru_cache(maxsize=8)
def record_header(
    run_id: str, population: int, delta: float | None, epsilon: float | None, window: int, days: float, noise: str
) -> LedgerHeader:
    """The header all devices of a run share, but for the run id (cached: it hashes everything installed)."""
    guarantee = guarantee_for("record", population=population, delta=delta, window=window, window_days=days)
    return header_for(
        guarantee,
        run_id=run_id,
        population=population,
        population_basis="users enrolled when the run started, as told by the coordinator",
        target_epsilon=epsilon,
        noise_source=noise,
    )
