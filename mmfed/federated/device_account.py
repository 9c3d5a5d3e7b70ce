"""A device's own privacy account: it charges before it answers, and refuses when its budget is spent."""

from __future__ import annotations

import secrets
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.device_terms import device_event, device_header
from mmfed.federated.lifetime import Lifetime
from mmfed.federated.one_shot_terms import ROUND
from mmfed.federated.tasks import Task
from mmfed.privacy.budget_lines import refusal
from mmfed.privacy.keys import load_or_create_key, load_or_create_sealed_key
from mmfed.privacy.ledger import Ledger, result_hash
from mmfed.privacy.local import LocalMechanism
from mmfed.privacy.mechanisms import NoiseSource, SecureNoise, SeededNoise
from mmfed.privacy.vault import Vault
from mmfed.rng import derive
from mmfed.types import FloatArray


class DeviceAccount:
    """One user's ledger where devices add the noise (record, user-local), in the coordinator's format; a file each.

    Args:
        folder: the node's private folder.
        key: the user's key.
        task: the round's work; fixes σ, rate and steps.
        vault: of a real device; keeps the signing key. The ledger itself stays readable for auditors.
        lifetime: the owner's bound over all runs; None for none.
    """

    def __init__(
        self, folder: Path, key: int, task: Task, vault: Vault | None = None, lifetime: Lifetime | None = None
    ) -> None:
        privacy = task.config.privacy
        self._task, self._key, self._lifetime = task, key, lifetime
        self._path = folder / "ledgers" / f"{key:016x}.jsonl"
        pem = folder / "key.pem"
        self._signer = load_or_create_key(pem) if vault is None else load_or_create_sealed_key(pem, vault)
        self._planned = device_event(task)
        self._release = self._planned.release()
        seeded = privacy.noise_source == "seeded"
        seed = derive(task.config.run.seed, "device", key)
        self.source: NoiseSource = SeededNoise(seed) if seeded else SecureNoise()
        self.sample_key = seed if seeded else secrets.randbits(64)
        self._header = device_header(task, key, self.source.name)

    def admits(self) -> bool:
        """Whether the budget and the cap on participations allow this round; a refusal is written to the ledger.

        A round charged before (the run was killed and repeats it) is let through: ``charge`` will find it unchanged.
        """
        with Ledger.resume(self._path, self._header, self._signer) as ledger:
            charged = any(
                event.kind == "release"
                and (event.body["round"], event.body["line"]) == (self._task.round_number, self._planned.line)
                for event in ledger.events
            )
            if charged and self._task.config.privacy.noise_source == "seeded":
                return True
            return self._affords(ledger)

    def noise(self, size: int, purpose: str) -> FloatArray:
        """Standard normal samples of this round."""
        return self.source.standard_normal(size, round_number=self._task.round_number, purpose=purpose)

    def mechanism(self) -> LocalMechanism:
        """User-local mode: the device's own clipping and noise."""
        privacy = self._task.config.privacy
        return LocalMechanism(
            clip_norm=privacy.clip_norm,
            noise_multiplier=self._task.noise_multiplier,
            law=privacy.local_noise,
            noise=self.source,
        )

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
        event = device_event(self._task, result_hash(update))
        lock = nullcontext() if self._lifetime is None else self._lifetime.locked()
        with lock, Ledger.resume(self._path, self._header, self._signer) as ledger:
            if not ledger.is_charged(event) and not self._affords(ledger):
                return False
            ledger.charge(event)
        return True

    def _affords(self, ledger: Ledger) -> bool:
        """Whether one more release stays within target and cap; if not, the refusal is written down."""
        privacy = self._task.config.privacy
        number = self._task.round_number
        rounds = {event.body["round"] for event in ledger.events if event.kind == "release"} - {ROUND}
        cap = privacy.participations
        if cap is not None and len(rounds - {number}) >= cap:
            reason = f"this device took part in {len(rounds)} rounds, of at most {cap} (privacy.participations)"
            ledger.refuse(reason, by="device", round_number=self._task.round_number)
            return False
        reason = refusal(ledger, [self._planned], privacy.lines.model_dump())
        if reason is None and self._lifetime is not None:
            reason = self._lifetime.refusal(self._key, privacy.mode, self._release)
        if reason is not None:
            ledger.refuse(reason, by="device", round_number=self._task.round_number)
            return False
        target = privacy.epsilon
        after = ledger.accountant.epsilon_after(self._release).value
        if target is None or after <= target:
            return True
        ledger.refuse(
            f"this round would bring epsilon to {after:.4f}, above the target {target:g}",
            by="device",
            round_number=self._task.round_number,
        )
        return False
