"""What resampling does to a contribution: how many training records come from one user, and from one record.

A privacy promise speaks of one unit. Where the unit is a record, a record that is copied k times moves the sum k times
as far, so the promise for it is that of a group of k (``group_privacy``). Where the unit is a user and the user's whole
update is clipped, copies change the direction of the update, never the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmfed.config import PrivacyMode
from mmfed.errors import ExitCode, MmfedError
from mmfed.types import FloatArray, IntArray

NOBODY = -1  # group of a synthetic record made from several people
Method = Literal["none", "random-over", "random-under", "smote"]
Pool = Literal["device", "everyone"]
METHODS: tuple[Method, ...] = ("none", "random-over", "random-under", "smote")
_GROWING = ("random-over", "smote")


@dataclass(frozen=True, eq=False)
class Contribution:
    """How many records each user gives, before and after.

    Attributes:
        users: [users] group numbers, ascending.
        before, after: [users] records.
        multiplicity: [users] after / before: how much heavier a user weighs in an unclipped sum.
    """

    users: IntArray
    before: IntArray
    after: IntArray

    @property
    def multiplicity(self) -> FloatArray:
        return self.after / self.before


def contribution(groups_before: IntArray, groups_after: IntArray) -> Contribution:
    """Count records per user before and after resampling.

    Args:
        groups_before, groups_after: [records] the user of each record.

    Raises:
        MmfedError: a record afterwards belongs to nobody, or to a user who had none.
    """
    before_groups, after_groups = np.asarray(groups_before), np.asarray(groups_after)
    mixed = int((after_groups == NOBODY).sum())
    if mixed:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"{mixed} synthetic records mix several people: what one of them contributes is not defined.",
            "resample inside each device (pool = device).",
        )
    users, before = np.unique(before_groups, return_counts=True)
    strangers = np.setdiff1d(after_groups, users)
    if len(strangers):
        raise MmfedError(
            ExitCode.PRIVACY,
            f"user {strangers[0]} has records after resampling and none before.",
            "pass the groups of the same records before and after resampling.",
        )
    after = np.bincount(np.searchsorted(users, after_groups), minlength=len(users))
    return Contribution(users, before, after)


def privacy_multiplicity(origins: IntArray, lineage_before: IntArray, lineage_after: IntArray) -> int:
    """The largest number of training records that derive from one original record, that record included.

    A copy derives from its original. A synthetic record is interpolated between two originals, but which two was
    decided by the distances among all records of its class in its pool; each of them is counted as an ancestor.

    The figure is a property of these data, hence itself private; a promise needs ``multiplicity_bound``, fixed
    beforehand.

    Args:
        origins: [after] the original each record is or copies, -1 for a synthetic one.
        lineage_before: [before] number of the (pool, class) of each original.
        lineage_after: [after] the same for the records after resampling.
    """
    before = len(lineage_before)
    copies = np.bincount(origins[origins >= 0], minlength=before)
    made = np.bincount(lineage_after[origins < 0], minlength=int(lineage_before.max(initial=-1)) + 1)
    return int((copies + made[lineage_before]).max(initial=0))


def multiplicity_bound(method: Method, *, most_copies: int | None) -> int:
    """What ``privacy_multiplicity`` cannot exceed, whatever the data.

    Raises:
        MmfedError: an over-sampling method without ``most_copies``.
    """
    if method not in _GROWING:
        return 1
    if most_copies is None:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"{method}: without most_copies one record may come back any number of times, and no promise can count it.",
            "set most_copies, e.g. 4: the promise is then the one of groups of 4 records.",
        )
    return most_copies


def check_resampling(
    method: Method, *, pool: Pool, groups: IntArray, privacy_mode: PrivacyMode, most_copies: int | None
) -> None:
    """Refuse resampling that a privacy promise could not account for.

    Raises:
        MmfedError: records of several users would be pooled although privacy is promised; record-level privacy without
            a limit on copies; an unknown method or pool; a limit below 1.
    """
    if method not in METHODS or pool not in ("device", "everyone"):
        raise MmfedError(
            ExitCode.CONFIG,
            f"resampling {method!r} in pool {pool!r}: unknown.",
            f"use one of {', '.join(METHODS)} in the pool device or everyone.",
        )
    if most_copies is not None and most_copies < 1:
        raise MmfedError(ExitCode.CONFIG, f"most_copies = {most_copies}: not allowed.", "use 1 or more.")
    if method == "none" or privacy_mode == "none":
        return
    people = len(np.unique(groups))
    if pool == "everyone" and people > 1:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"{method} over {people} users needs their records in one place, and privacy.mode = {privacy_mode} "
            "promises that they stay on the devices.",
            "resample inside each device (pool = device), use class weights, or set privacy.mode = none.",
        )
    if privacy_mode == "record":
        multiplicity_bound(method, most_copies=most_copies)


def group_privacy(epsilon: float, delta: float, *, size: int) -> tuple[float, float]:
    """The (ε, δ) for a group of ``size`` units, given (ε, δ) for one unit (Dwork and Roth 2014, theorem 2.2 with δ).

    ε grows by the factor ``size``, δ by (e^(size ε) - 1) / (e^ε - 1); a δ of 1 promises nothing.

    Args:
        epsilon: nats, for one unit.

    Raises:
        MmfedError: a size below 1, or an ε or δ that is no such thing.
    """
    if size < 1 or math.isnan(epsilon) or epsilon < 0 or not 0 <= delta <= 1:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"group_privacy(epsilon = {epsilon!r}, delta = {delta!r}, size = {size!r}): not allowed.",
            "use epsilon >= 0, delta from 0 to 1 and size >= 1.",
        )
    if delta == 0 or size == 1:
        return size * epsilon, delta
    if epsilon == 0:
        return 0.0, min(1.0, size * delta)
    if size * epsilon > 700:  # beyond the largest float; a promise of that size is none
        return size * epsilon, 1.0
    return size * epsilon, min(1.0, delta * math.expm1(size * epsilon) / math.expm1(epsilon))
