"""User-ftrl mode at the coordinator: correlated noise, one Gaussian release for the whole run (``privacy.banded``)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.participation import banded_terms
from mmfed.federated.release import Release
from mmfed.privacy.accounting import GaussianRelease
from mmfed.privacy.banded import CorrelatedNoise
from mmfed.privacy.budget_lines import admit
from mmfed.privacy.keyed_noise import KeyedNoise
from mmfed.privacy.ledger import Ledger, ReleaseEvent, result_hash
from mmfed.privacy.mechanisms import NoiseSource, SeededNoise, checked_sum, on_grid
from mmfed.types import FloatArray


class BandedRelease(Release):
    """From sum to mean with correlated noise.

    A round repeated after a crash draws the same noise. If its sum is another one, that noise must not hide it as well
    (the difference of the two would show what changed): it draws anew, and one more participation is charged.

    Args:
        config: of the run.
        ledger: of the run.
        noise_multiplier: standard deviation of the independent draws, relative to the clip norm.
        key: of the run, from which noise is derived that is no simulation.
        run_id: of the run.
    """

    def __init__(
        self, config: Config, ledger: Ledger, noise_multiplier: float, *, key: Ed25519PrivateKey, run_id: str
    ) -> None:
        super().__init__(config, ledger, noise_multiplier, planned_cohort=1)
        self._own: Ledger = ledger
        self._terms = banded_terms(config)
        self._draws: NoiseSource = (
            SeededNoise(config.run.seed) if config.privacy.noise_source == "seeded" else KeyedNoise(key, run_id)
        )
        self._attempts: list[int] = []  # which draw of each past round stands
        self._stream: CorrelatedNoise | None = None

    def state(self) -> dict[str, Tensor]:
        """Which draw of each past round stands; the noise itself is drawn again."""
        return {"attempts": torch.tensor(self._attempts, dtype=torch.int64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of ``state``."""
        if "attempts" in state:
            self._attempts, self._stream = [int(one) for one in state["attempts"]], None

    def mean(
        self,
        total: FloatArray,
        *,
        round_number: int,
        rate: float,
        planned: int,
        realised: int,
        dropouts: int,
        within: int = 0,
    ) -> FloatArray:
        """The mean update of a round, noise as in ``privacy.banded``; no use is made of ``rate`` and ``within``.

        Raises:
            MmfedError: as ``Release.mean``; or rounds are not asked for one after the other.
        """
        del rate, within
        if round_number != len(self._attempts) + 1:
            raise MmfedError(
                ExitCode.PRIVACY,
                f"round {round_number} after {len(self._attempts)}: correlated noise needs every round in turn.",
                "continue with --resume.",
            )
        values = checked_sum(total, clip_norm=self._clip_norm, contributors=realised, round_number=round_number)
        past = self._past(values.size)
        before = sum(
            one.kind == "release" and one.body["line"] == "model" and one.body["round"] == round_number
            for one in self._own.events
        )
        attempt = max(before - 1, 0)
        noised, event, row = self._attempt(values, past, round_number, attempt, planned, realised, dropouts, steps=0)
        if not self._own.is_charged(event):
            if before:
                attempt = before
            due = self._terms.participation.by(round_number) - (
                self._terms.participation.by(round_number - 1) if round_number > 1 else 0
            )
            steps = 1 if before else due
            noised, event, row = self._attempt(
                values, past, round_number, attempt, planned, realised, dropouts, steps=steps
            )
            if self._budget is not None and steps:
                one = event.release()
                if isinstance(one, GaussianRelease):
                    self._budget.admit(one, round_number=round_number)
            admit(self._own, [event], self._lines)
            self._own.charge(event)
        self._attempts.append(attempt)
        past.keep(row)
        return noised

    def _attempt(
        self, total: FloatArray, past: CorrelatedNoise, number: int, attempt: int,
        planned: int, realised: int, dropouts: int, *, steps: int,
    ) -> tuple[FloatArray, ReleaseEvent, FloatArray]:  # fmt: skip
        row = past.row(self._fresh(total.size, number, attempt))
        deviation = self._sigma * self._clip_norm
        noised = on_grid(total + deviation * row.reshape(total.shape), deviation) / planned
        event = ReleaseEvent(
            round=number,
            mechanism="banded",
            clip_norm=self._clip_norm,
            noise_multiplier=self._sigma,
            sampling="full",
            sampling_rate=1.0,
            steps=steps,
            planned_cohort=planned,
            realised_cohort=realised,
            dropouts=dropouts,
            result_hash=result_hash(noised),
            banded=self._terms.body(),
        )
        return noised, event, row

    def _fresh(self, size: int, number: int, attempt: int) -> FloatArray:
        return self._draws.standard_normal(size, round_number=number, purpose=f"banded draw {attempt}")

    def _past(self, size: int) -> CorrelatedNoise:
        """The stream as it stands after the rounds so far; after a resume all their draws are made again."""
        if self._stream is None:
            self._stream = CorrelatedNoise(self._terms.coefficients)
            for number, attempt in enumerate(self._attempts, start=1):
                self._stream.keep(self._stream.row(self._fresh(size, number, attempt)))
        return self._stream
