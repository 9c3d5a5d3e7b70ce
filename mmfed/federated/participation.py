"""User-ftrl mode: how often and how far apart a user takes part, kept by the coordinator and by the device."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfed.config import Config
from mmfed.federated.device_terms import device_header
from mmfed.federated.lifetime import Lifetime
from mmfed.federated.sampling import poisson_cohort
from mmfed.federated.tasks import Task
from mmfed.privacy.banded import MOST_BANDS, Participation, banded_coefficients, banded_multiplier, column_norm
from mmfed.privacy.budget_lines import refusal
from mmfed.privacy.keys import load_or_create_key, load_or_create_sealed_key
from mmfed.privacy.ledger import Ledger, ReleaseEvent
from mmfed.privacy.local import analytic_gaussian
from mmfed.privacy.mechanisms import SeededNoise
from mmfed.privacy.vault import Vault
from mmfed.types import IntArray


@dataclass(frozen=True, kw_only=True)
class BandedTerms:
    """What a user-ftrl run promises beside σ and C."""

    coefficients: tuple[float, ...]
    participation: Participation

    def body(self) -> dict[str, Any]:
        """As a ledger's line holds it."""
        return {
            "coefficients": list(self.coefficients),
            "separation": self.participation.separation,
            "participations": self.participation.most,
        }


def banded_terms(config: Config) -> BandedTerms:
    """The terms of a run; without a cap on participations, as many as the separation allows."""
    privacy, rounds = config.privacy, config.federation.rounds
    separation = min(privacy.minimum_separation, rounds)
    most = ceil(rounds / separation)
    if privacy.participations is not None:
        most = min(most, privacy.participations)
    bands = min(separation, MOST_BANDS) if privacy.bands is None else min(privacy.bands, separation)
    return BandedTerms(
        coefficients=banded_coefficients(rounds, bands),
        participation=Participation(separation=separation, most=most),
    )


def banded_noise(config: Config, *, epsilon: float, delta: float) -> float:
    """Standard deviation of the independent draws, in clip norms, that keeps (ε, δ) over the whole run."""
    terms = banded_terms(config)
    one = analytic_gaussian(epsilon=epsilon, delta=delta)
    return column_norm(terms.coefficients) * sqrt(terms.participation.most) * one


class SeparatedSampler:
    """Draws cohorts among the users who may take part again, and remembers who did.

    Args:
        users: every user key of the run.
        terms: separation and cap.
        rounds: of the run.
        wanted: planned cohort; None: as many as can be had in every round.
    """

    def __init__(self, users: IntArray, terms: Participation, *, rounds: int, wanted: int | None) -> None:
        self._users = np.sort(users)
        self._terms = terms
        self._last = np.zeros(len(users), dtype=np.int64)
        self._count = np.zeros(len(users), dtype=np.int64)
        steady = min(len(users) / terms.separation, len(users) * terms.most / rounds)
        self.planned = max(1, int(min(steady, len(users) if wanted is None else wanted)))

    def eligible(self, round_number: int) -> IntArray:
        """Keys of those who may take part in a round, sorted."""
        rested = (self._last == 0) | (round_number - self._last >= self._terms.separation)
        return self._users[rested & (self._count < self._terms.most)]

    def draw(self, round_number: int, *, seed: int, source: Any) -> IntArray:
        """The cohort of a round; it is remembered as having taken part, whatever becomes of the answers."""
        users = self.eligible(round_number)
        rate = min(1.0, self.planned / max(len(users), 1))
        cohort = poisson_cohort(users, rate, seed=seed, round_number=round_number, source=source)
        places = np.searchsorted(self._users, cohort)
        self._last[places] = round_number
        self._count[places] += 1
        return cohort

    def state(self) -> dict[str, Tensor]:
        """Who took part when, by name."""
        keys = torch.from_numpy(self._users.astype(np.uint64).view(np.int64).copy())
        return {
            "users": keys,
            "last": torch.from_numpy(self._last.copy()),
            "count": torch.from_numpy(self._count.copy()),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of ``state``; users who are new start as having taken part in nothing."""
        keys = state["users"].numpy().view(np.uint64)
        known = np.flatnonzero(np.isin(self._users.astype(np.uint64), keys))
        places = np.searchsorted(keys, self._users[known].astype(np.uint64))
        self._last[known] = state["last"].numpy()[places]
        self._count[known] = state["count"].numpy()[places]


class ParticipationAccount:
    """One user's ledger in user-ftrl mode: the device takes part no more often, and no sooner again, than promised.

    The server adds the noise; the device writes down that it took part, and what that costs at the promised noise.
    """

    def __init__(
        self, folder: Path, key: int, task: Task, vault: Vault | None = None, lifetime: Lifetime | None = None
    ) -> None:
        self._task, self._key, self._lifetime = task, key, lifetime
        self._path = folder / "ledgers" / f"{key:016x}.jsonl"
        pem = folder / "key.pem"
        self._signer = load_or_create_key(pem) if vault is None else load_or_create_sealed_key(pem, vault)
        self._terms = banded_terms(task.config)
        noise = SeededNoise(0).name if task.config.privacy.noise_source == "seeded" else "the coordinator's"
        self._header = device_header(task, key, noise)

    def takes_part(self) -> bool:
        """Charge this participation, durable before the update leaves; if it may not, False, and a refusal is written.

        A round repeated after a crash is the same participation: the coordinator charges what the repetition costs.

        Raises:
            MmfedError: the ledger cannot be written; nothing may leave.
        """
        task, terms, privacy = self._task, self._terms.participation, self._task.config.privacy
        event = replace(
            self._event(), result_hash=hashlib.sha256(f"{task.run_id} round {task.round_number}".encode()).hexdigest()
        )
        lock = nullcontext() if self._lifetime is None else self._lifetime.locked()
        with lock, Ledger.resume(self._path, self._header, self._signer) as ledger:
            if ledger.is_charged(event):
                return True
            rounds = [one.body["round"] for one in ledger.events if one.kind == "release"]
            reason = refusal(ledger, [event], privacy.lines.model_dump())
            if reason is None and self._lifetime is not None:
                reason = self._lifetime.refusal(self._key, privacy.mode, event.release())
            after = ledger.accountant.epsilon_after(event.release()).value
            if len(rounds) >= terms.most:
                reason = f"this device took part {len(rounds)} times, of at most {terms.most}"
            elif rounds and task.round_number - max(rounds) < terms.separation:
                reason = f"took part in round {max(rounds)}; at least {terms.separation} rounds lie between"
            elif privacy.epsilon is not None and after > privacy.epsilon:
                reason = f"this round would bring epsilon to {after:.4f}, above the target {privacy.epsilon:g}"
            if reason is not None:
                ledger.refuse(reason, by="device", round_number=task.round_number)
                return False
            ledger.charge(event)
        return True

    def _event(self) -> ReleaseEvent:
        return ReleaseEvent(
            round=self._task.round_number,
            mechanism="participation",
            clip_norm=self._task.config.privacy.clip_norm,
            noise_multiplier=banded_multiplier(self._task.noise_multiplier, self._terms.coefficients),
            sampling="full",
            sampling_rate=1.0,
            planned_cohort=1,
            realised_cohort=1,
            result_hash="0" * 64,
            banded=self._terms.body(),
        )
