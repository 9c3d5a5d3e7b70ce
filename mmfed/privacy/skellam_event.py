"""The ledger's line for a sum with distributed Skellam noise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mmfed.privacy.events import Mechanism, ReleaseEvent
from mmfed.privacy.skellam import SkellamRelease


@dataclass(frozen=True, kw_only=True)
class SkellamEvent(ReleaseEvent):
    """A release whose noise the devices added in shares.

    Args:
        noise_multiplier: σ relative to ``sqrt(l2_squared)``, in a sum of ``minimum_cohort`` users.
        l2_squared, l1: norms of one user's encoded contribution, for the accountant; ``clip_norm`` is for people.
        minimum_cohort: users below which nothing would have been released.
    """

    mechanism: Mechanism = field(default="skellam")
    noise_added_by: Literal["server", "device"] = field(default="device")
    l2_squared: int
    l1: int
    minimum_cohort: int

    def release(self) -> SkellamRelease:
        """What the accountant sees: no amplification by sampling, because the server sees who takes part."""
        return SkellamRelease(
            noise_multiplier=self.noise_multiplier, l2_squared=self.l2_squared, l1=self.l1, count=self.steps
        )
