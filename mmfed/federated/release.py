"""From the sum of a round to the mean that may be used: noise where the coordinator adds it, and the charge for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.adaptive_clip import BIT_NORM, AdaptiveClip, shared_noise
from mmfed.privacy.budget import Budget
from mmfed.privacy.budget_lines import admit
from mmfed.privacy.events import joint_release
from mmfed.privacy.ledger import Ledger, ReleaseEvent, result_hash
from mmfed.privacy.mechanisms import GaussianMechanism, NoiseSource, SecureNoise, SeededNoise
from mmfed.types import FloatArray


class Release:
    """The privacy mode's way from sum to mean.

    - ``none``, ``record`` and ``user-local``: the plain mean over the users in the sum (in the latter two the devices
      added noise and charged it themselves).
    - ``user-central``: one Gaussian draw on the sum, divided by the planned cohort, charged before it is used. With
      adaptive clipping the noised count of users within the clip norm is charged on the statistics line, and moves it.

    Args:
        config: of the run.
        ledger: user-central only.
        noise_multiplier: user-central only; with adaptive clipping, of update and count together.
        planned_cohort: expected users a round.
    """

    def __init__(
        self, config: Config, ledger: Ledger | None, noise_multiplier: float | None, *, planned_cohort: int
    ) -> None:
        privacy = config.privacy
        self._ledger = None if noise_multiplier is None else ledger
        self._noise: NoiseSource = SeededNoise(config.run.seed) if privacy.noise_source == "seeded" else SecureNoise()
        self._sigma = noise_multiplier or 0.0
        self._clip_norm = privacy.clip_norm
        self._norm_bound = config.defence.norm_bound if privacy.mode == "none" else None
        self._adaptive: AdaptiveClip | None = None
        if self._ledger is not None and privacy.clipping == "adaptive":
            shared = shared_noise(self._sigma, planned_cohort=planned_cohort, bits=privacy.quantile_noise)
            self._sigma = shared.update
            self._adaptive = AdaptiveClip(
                clip_norm=privacy.clip_norm,
                quantile=privacy.clip_quantile,
                rate=privacy.clip_rate,
                bits=shared.bits,
                noise=self._noise,
            )
        self._lines: Mapping[str, float | None] = privacy.lines.model_dump()
        target = privacy.epsilon
        self._budget = (
            Budget(target_epsilon=target, ledger=self._ledger)
            if self._ledger is not None and target is not None
            else None
        )

    @property
    def moving_clip_norm(self) -> float | None:
        """The clip norm that devices are to use now, where it moves; else None."""
        return None if self._adaptive is None else self._clip_norm

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on, by name."""
        return {} if self._adaptive is None else {"clip_norm": torch.tensor(self._clip_norm, dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of ``state``."""
        if self._adaptive is not None and "clip_norm" in state:
            self._clip_norm = float(state["clip_norm"])

    def check_norm(self, vector: FloatArray, users: int) -> None:
        """Refuse a sum that ``users`` clipped updates cannot make (a broken or hostile node).

        Raises:
            MmfedError: the norm is too large.
        """
        bound = self._norm_bound if self._ledger is None else self._clip_norm
        if bound is None:
            return
        with np.errstate(over="ignore"):  # a norm that overflows is infinite, and too large
            norm = float(np.linalg.norm(vector))
        if norm > users * bound * (1 + 1e-4):
            name = "norm bound" if self._ledger is None else "clip norm"
            raise MmfedError(
                ExitCode.FEDERATION,
                f"update of norm {norm:.4g} exceeds {users} x {name} {bound:g}",
                "the node does not clip; it is left out.",
            )

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
        """The mean update of a round.

        Args:
            within: adaptive clipping: users of the sum whose update was within the clip norm.

        Raises:
            MmfedError: the budget is exhausted or the charge cannot be made durable; nothing is released then.
        """
        if self._ledger is None:
            return total / max(realised, 1)
        mechanism = GaussianMechanism(clip_norm=self._clip_norm, noise_multiplier=self._sigma, noise=self._noise)
        noised = mechanism.release(total, planned_cohort=planned, round_number=round_number, contributors=realised)
        event = ReleaseEvent(
            round=round_number,
            clip_norm=self._clip_norm,
            noise_multiplier=self._sigma,
            sampling="poisson" if rate < 1 else "full",
            sampling_rate=rate,
            planned_cohort=planned,
            realised_cohort=realised,
            dropouts=dropouts,
            result_hash=result_hash(noised),
        )
        if self._adaptive is None:
            self._charge(event)
            return noised
        share = self._adaptive.share(within, realised=realised, planned_cohort=planned, round_number=round_number)
        statistic = replace(
            event,
            line="statistics",
            clip_norm=BIT_NORM,
            noise_multiplier=self._adaptive.bits / BIT_NORM,
            result_hash=result_hash(np.array([share])),
        )
        self._charge(event, statistic)
        self._clip_norm = self._adaptive.moved(self._clip_norm, share)
        return noised

    def _charge(self, event: ReleaseEvent, statistic: ReleaseEvent | None = None) -> None:
        """Both or none: the budget is asked before anything is written, and every charge is durable on return."""
        ledger = self._ledger
        if ledger is None or ledger.is_charged(event):
            return
        if self._budget is not None:
            whole, paid = event.release(), None
            if statistic is not None:
                whole = joint_release(statistic.release(), whole)
                paid = statistic.release() if ledger.is_charged(statistic) else None  # killed between the two charges
            self._budget.admit(whole, round_number=event.round, replacing=paid)
        admit(ledger, [event] if statistic is None else [statistic, event], self._lines)
        if statistic is not None:
            event = replace(event, shares_sample_with=ledger.charge(statistic))
        ledger.charge(event)

    def spent(self) -> float | None:
        """ε charged so far by the coordinator, nats; None where it has no account."""
        return None if self._ledger is None else self._ledger.spent().value
