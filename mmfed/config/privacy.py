"""What a run promises to people, and the noise that keeps it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mmfed.config.section import Section

PrivacyMode = Literal["none", "user-central", "user-distributed", "user-local", "user-ftrl", "record"]


class LinesSection(Section):
    """Bounds on ε by budget line, besides the target on all of them together."""

    model: float | None = Field(default=None, gt=0, description="releases of the shared model")
    metrics: float | None = Field(default=None, gt=0, description="figures of quality taken from devices")
    statistics: float | None = Field(default=None, gt=0, description="quantiles, popularity and the like")
    tuning: float | None = Field(default=None, gt=0, description="choices made from private figures")


class PrivacySection(Section):
    """What is promised, to whom, and the noise that keeps it (PRIVACY table in docs/privacy.md)."""

    mode: PrivacyMode = "user-central"
    epsilon: float | None = Field(default=8.0, gt=0, description="target; the noise multiplier is planned from it")
    noise_multiplier: float | None = Field(default=None, gt=0, description="given instead of epsilon")
    delta: float | None = Field(
        default=None, gt=0, lt=1, description="none: population ** -1.1 (record mode: records ** -1.1)"
    )
    clip_norm: float = Field(
        default=0.15, gt=0, description="bound on the L2 norm of one user's (record mode: one window's) update"
    )
    clipping: Literal["fixed", "adaptive"] = Field(
        default="fixed",
        description="user-central: adaptive moves the clip norm towards a quantile of the users' norms, round by "
        "round; the noised quantile is paid for (statistics line)",
    )
    clip_quantile: float = Field(
        default=0.5, gt=0, lt=1, description="adaptive clipping: share of users whose update is not to be clipped"
    )
    clip_rate: float = Field(default=0.2, gt=0, le=2, description="adaptive clipping: how fast the clip norm moves")
    quantile_noise: float | None = Field(
        default=None,
        gt=0,
        description="adaptive clipping: standard deviation of the noise on the number of users within the clip norm; "
        "none: a twentieth of the planned cohort, at least the noise multiplier",
    )
    task_clip_norm: float | None = Field(
        default=None,
        gt=0,
        description="user-central, models with several tasks on the device: bound on each task's part of a local step, "
        "so that none crowds out the others; the joint bound stays clip_norm",
    )
    local_noise: Literal["gaussian", "laplace"] = Field(
        default="gaussian", description="user-local: the device's noise; laplace clips in L1 instead of L2"
    )
    participations: int | None = Field(
        default=None,
        ge=1,
        description="user-local, record, user-ftrl: rounds one device may join, enforced on the device; none: so many "
        "that 99.9 % of the devices are never refused (user-ftrl: as the minimum separation allows)",
    )
    minimum_separation: int = Field(
        default=10, ge=1, description="user-ftrl: rounds from one participation of a user to the next, at least"
    )
    bands: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="user-ftrl: bands of the noise's factor, at most minimum_separation; none: as many, up to 256. The "
        "coordinator keeps a past row of noise in memory for each",
    )
    window: int = Field(default=10, ge=1, description="record mode: most interactions in one window")
    window_days: float = Field(default=7.0, gt=0, description="record mode: calendar span of a window")
    record_batch: int = Field(default=4, ge=1, description="record mode: public divisor of a device's summed gradients")
    record_sample_rate: float = Field(
        default=0.5, gt=0, le=1, description="record mode: Poisson rate of windows on the device"
    )
    lines: LinesSection = LinesSection()
    minimum_survivors: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="user-distributed: least share of a cohort in a sum; its noise is sized for it",
    )
    masks: Literal["always", "skipped"] = Field(
        default="always", description="user-distributed: secure aggregation; skipped: same integers, simulations only"
    )
    noise_source: Literal["seeded", "csprng"] = Field(
        default="seeded", description="seeded noise protects nobody: simulation only"
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> PrivacySection:
        if self.mode != "none" and self.epsilon is None and self.noise_multiplier is None:
            raise ValueError("set privacy.epsilon or privacy.noise_multiplier")
        if self.mode == "user-ftrl" and self.bands is not None and self.bands > self.minimum_separation:
            raise ValueError("bands above minimum_separation void the sensitivity: lower privacy.bands")
        if self.clipping == "adaptive" and self.mode != "user-central":
            raise ValueError("clipping = 'adaptive' belongs to user-central: set mode = 'user-central', or 'fixed'")
        if self.task_clip_norm is not None and self.mode != "user-central":
            raise ValueError("task_clip_norm belongs to user-central: set mode = 'user-central', or leave it out")
        return self
