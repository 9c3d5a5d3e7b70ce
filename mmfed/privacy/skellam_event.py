"""The ledger's line for a sum with distributed Skellam noise."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from mmfed.privacy.distributed import DistributedNoise
from mmfed.privacy.events import Line, Mechanism, ReleaseEvent
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

    @classmethod
    def of(
        cls, noise: DistributedNoise, *, round_number: int, digest: str, users: int | None = None, line: Line = "model"
    ) -> SkellamEvent:
        """The event of a sum, or of one user's part of it.

        Args:
            digest: of the result, hex SHA-256.
            users: in the sum; None for one user's part, who does not know it.
        """
        release = noise.release()
        event = cls(
            round=round_number,
            line=line,
            clip_norm=noise.clip_norm,
            noise_multiplier=noise.noise_multiplier,
            sampling="full",
            sampling_rate=1.0,
            planned_cohort=noise.cohort,
            result_hash=digest,
            l2_squared=release.l2_squared,
            l1=release.l1,
            minimum_cohort=noise.minimum,
        )
        return event if users is None else replace(event, realised_cohort=users, dropouts=noise.cohort - users)

    def release(self) -> SkellamRelease:
        """What the accountant sees: no amplification by sampling, because the server sees who takes part."""
        return SkellamRelease(
            noise_multiplier=self.noise_multiplier, l2_squared=self.l2_squared, l1=self.l1, count=self.steps
        )
