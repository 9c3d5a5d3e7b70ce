"""Section of what the coordinator does against devices that push an item."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmfed.config.section import Section


class DefenceSection(Section):
    """What the coordinator does against devices that push an item (docs/poisoning.md); nothing by default."""

    norm_bound: float | None = Field(
        default=None,
        gt=0,
        description="privacy.mode none: bound on the L2 norm of one user's update; devices keep to it, and an update "
        "beyond it is refused (other modes have privacy.clip_norm)",
    )
    row_bound: float | None = Field(
        default=None,
        gt=0,
        description="bound on what one user changes of one item: the L2 norm over the item's rows (ids, bias); longer "
        "ones are scaled down. The coordinator then asks for every user's update apart",
    )
    aggregation: Literal["mean", "median", "trimmed-mean"] = Field(
        default="mean",
        description="how updates become one, coordinate by coordinate; all but mean need every user's update apart, "
        "and a privacy mode whose noise is not sized for a sum",
    )
    trim: float = Field(
        default=0.1, gt=0, lt=0.5, description="trimmed-mean: share of the updates left out at either end"
    )
    alarm_rise: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="warn when an item's share of the lists made for made-up shoppers rises by so much; none: no alarm",
    )
    alarm_rounds: int = Field(default=5, ge=1, description="within how many rounds it rises")
    alarm_after: int = Field(
        default=10, ge=0, description="rounds without alarm at the start, while popular items find their place"
    )

    @property
    def single_updates(self) -> bool:
        """Whether the coordinator has to see every user's update apart."""
        return self.row_bound is not None or self.aggregation != "mean"
