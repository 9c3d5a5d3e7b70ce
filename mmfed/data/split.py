"""Train, validation and test: every history is cut in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from mmfed.config import SplitSection
from mmfed.data.schema import Interactions, Shop, Split
from mmfed.errors import ExitCode, MmfedError
from mmfed.rng import derive
from mmfed.types import BoolArray, IntArray

TRAIN, VALIDATION, TEST = 0, 1, 2
_TIES = "ties in time keep input order"


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Who and what training never meets.

    Attributes:
        items: [items] bool, cold items.
        users: [users] bool, new users.
    """

    items: BoolArray
    users: BoolArray

    def rows(self, interactions: Interactions) -> BoolArray:
        """[interactions] true for the rows of a cold item or a new user."""
        return self.items[interactions.items] | np.repeat(self.users, interactions.lengths)

    @property
    def description(self) -> str:
        """In words, for reports."""
        return f"{int(self.items.sum())} items and {int(self.users.sum())} users held out wholly"


def held_out(shop: Shop, section: SplitSection) -> HeldOut:
    """Cold items and new users: those whose id's hash falls into the section's fold, whatever else the shop holds."""
    return HeldOut(
        _in_fold("cold item", shop.catalogue.item_ids, section.cold_items, section.fold),
        _in_fold("new user", shop.interactions.user_ids, section.new_users, section.fold),
    )


def split_shop(shop: Shop, section: SplitSection) -> Split:
    """Cut the interactions of a shop into train, validation and test; every row lands in exactly one of them.

    Rows of held-out items and users (``held_out``) are in none: what is cut is the shop as it was before they came.

    ``leave-last-out`` and ``ratio`` decide each user by that user's own rows alone. ``global-time`` has one cut date
    for everyone, so no training row is later than any test row.

    Raises:
        MmfedError: the shares leave nothing to train on, no split came with the data, or the data carry no time.
    """
    if section.cold_items or section.new_users:
        return _split_without(shop, section)
    interactions = shop.interactions
    check_shares(section)
    if section.kind == "given":
        return cut(interactions, _given_parts(shop), "split given with the data")
    _require_time(shop, section)
    span = time_span(interactions.times) if section.kind == "global-time" else None
    return cut(interactions, time_parts(interactions, section, span), describe_split(section, span))


def check_shares(section: SplitSection) -> None:
    """Refuse shares that leave nothing to train on.

    Raises:
        MmfedError: they add up to 1 or more.
    """
    if section.kind in ("ratio", "global-time") and section.validation + section.test >= 1:
        total = section.validation + section.test
        raise MmfedError(
            ExitCode.CONFIG,
            f"data.split.validation + data.split.test = {total:g}: nothing is left to train on.",
            "choose shares that add up to less than 1, e.g. 0.1 and 0.1.",
        )


def time_parts(interactions: Interactions, section: SplitSection, span: tuple[int, int] | None) -> IntArray:
    """[interactions] int8 part of every row, for any set of whole users.

    Args:
        span: first and last time of the whole shop; ``global-time`` only.
    """
    if section.kind == "leave-last-out":
        return _leave_last_out(interactions, section)
    if section.kind == "ratio":
        return _ratio(interactions, section)
    if span is None:
        raise ValueError(f"data.split.kind = {section.kind} cannot be cut without the time span of the shop")
    return _global_time(interactions, section, span)


def describe_split(section: SplitSection, span: tuple[int, int] | None) -> str:
    """How ``time_parts`` cuts, in words for reports."""
    if section.kind == "leave-last-out":
        return (
            "leave-last-out: a user's last interaction is test, the one before it validation; "
            f"users with fewer than {_minimum(section)} interactions are in training only; {_TIES}"
        )
    if section.kind == "ratio":
        return (
            f"ratio: of every history the latest {section.test:.0%} are test and the {section.validation:.0%} before "
            f"them validation, at least one each; users with fewer than {_minimum(section)} interactions are in "
            f"training only; {_TIES}"
        )
    validation_from, test_from = _cut_dates(section, span or (0, 0))
    return (
        f"global-time: validation from {_date(validation_from)}, test from {_date(test_from)} on, the same for every "
        "user; minimum_history does not apply, since a training row after the cut would look ahead"
    )


def time_span(times: IntArray) -> tuple[int, int]:
    """First and last time.

    Raises:
        MmfedError: all are the same, so there is no date to cut at.
    """
    if len(times) == 0 or times.min() == times.max():
        raise MmfedError(
            ExitCode.DATA,
            "data.split.kind = global-time needs interactions at different times, and all carry the same one.",
            "choose data.split.kind = leave-last-out, or give the interactions their times.",
        )
    return int(times.min()), int(times.max())


def cut(interactions: Interactions, parts: IntArray, description: str) -> Split:
    """A ``Split`` from one part number per row: [interactions] of 0 (train), 1 (validation), 2 (test)."""
    if parts.shape != (len(interactions),) or (len(parts) and not 0 <= parts.min() <= parts.max() <= TEST):
        raise ValueError("parts must hold 0, 1 or 2 for every interaction")
    return Split(
        train=interactions.keep_rows(parts == TRAIN),
        validation=interactions.keep_rows(parts == VALIDATION),
        test=interactions.keep_rows(parts == TEST),
        description=description,
    )


def no_split(nobody: Interactions) -> Split:
    """The split of a catalogue without interactions."""
    return Split(train=nobody, validation=nobody, test=nobody, description="no interactions here")


def _split_without(shop: Shop, section: SplitSection) -> Split:
    """The split of what is not held out."""
    held = held_out(shop, section)
    kept = ~held.rows(shop.interactions)
    if not kept.any():
        raise all_held_out(shop)
    warm = replace(
        shop,
        interactions=shop.interactions.keep_rows(kept),
        parts=None if shop.parts is None else shop.parts[kept],
    )
    found = split_shop(warm, section.model_copy(update={"cold_items": 0.0, "new_users": 0.0, "fold": 0}))
    return replace(found, description=f"{found.description}; {held.description}")


def all_held_out(shop: Shop) -> MmfedError:
    """The fault of a split that holds everything out."""
    return MmfedError(
        ExitCode.DATA,
        f"{shop.name}: all {len(shop.interactions)} interactions are with held-out items or users.",
        "lower data.split.cold_items and data.split.new_users, or take another data.split.fold.",
    )


def _in_fold(what: str, ids: Sequence[str], share: float, fold: int) -> BoolArray:
    """[ids] true where the hash of the id is in [fold · share, (fold + 1) · share)."""
    places = np.array([derive(0, what, str(one)) for one in ids], dtype=np.float64) * 2.0**-64
    return (places >= fold * share) & (places < (fold + 1) * share)


def _minimum(section: SplitSection) -> int:
    """The shortest history that is cut: every part gets a row."""
    if section.kind == "leave-last-out":
        return max(section.minimum_history, 3)  # below 3 there would be no training row left
    return max(section.minimum_history, 3 if section.validation > 0 else 2)


def _leave_last_out(interactions: Interactions, section: SplitSection) -> IntArray:
    lengths, from_end = _lengths_and_distance_to_end(interactions)
    parts = np.zeros(len(interactions), dtype=np.int8)
    long_enough = lengths >= _minimum(section)
    parts[long_enough & (from_end == 0)] = TEST
    parts[long_enough & (from_end == 1)] = VALIDATION
    return parts


def _ratio(interactions: Interactions, section: SplitSection) -> IntArray:
    lengths, from_end = _lengths_and_distance_to_end(interactions)
    test = np.clip(_rounded(lengths * section.test), 1, None)
    validation = (
        np.clip(_rounded(lengths * section.validation), 1, None) if section.validation > 0 else np.zeros_like(test)
    )
    test = np.minimum(test, lengths - 1 - (validation > 0))  # the latest rows leave one for each earlier part
    validation = np.minimum(validation, lengths - 1 - test)
    parts = np.zeros(len(interactions), dtype=np.int8)
    long_enough = lengths >= _minimum(section)
    parts[long_enough & (from_end < test + validation)] = VALIDATION
    parts[long_enough & (from_end < test)] = TEST
    return parts


def _global_time(interactions: Interactions, section: SplitSection, span: tuple[int, int]) -> IntArray:
    validation_from, test_from = _cut_dates(section, span)
    parts = np.zeros(len(interactions), dtype=np.int8)
    parts[interactions.times >= validation_from] = VALIDATION
    parts[interactions.times >= test_from] = TEST
    return parts


def _cut_dates(section: SplitSection, span: tuple[int, int]) -> tuple[float, float]:
    """Where validation and test begin, seconds since 1970."""
    start, end = span
    return end - (section.test + section.validation) * (end - start), end - section.test * (end - start)


def _given_parts(shop: Shop) -> IntArray:
    if shop.parts is None:
        raise needs_given_parts(shop)
    return shop.parts


def needs_given_parts(shop: Shop) -> MmfedError:
    """The fault of a given split that is not given."""
    return MmfedError(
        ExitCode.CONFIG,
        f"data.split.kind = given, but the shop '{shop.name}' came without a split.",
        "choose data.split.kind = leave-last-out, ratio or global-time.",
    )


def _require_time(shop: Shop, section: SplitSection) -> None:
    times = shop.interactions.times
    if shop.parts is not None and (len(times) == 0 or times.min() == times.max()):
        raise MmfedError(
            ExitCode.CONFIG,
            f"data.split.kind = {section.kind} cuts by time, but '{shop.name}' has no times, only a given split.",
            'set data.split.kind = "given".',
        )


def _lengths_and_distance_to_end(interactions: Interactions) -> tuple[IntArray, IntArray]:
    """Per row: the length of its user's history, and how many rows of that user follow it."""
    lengths = np.repeat(interactions.lengths, interactions.lengths)
    ends = np.repeat(interactions.indptr[1:], interactions.lengths)
    return lengths, ends - 1 - np.arange(len(interactions))


def _rounded(values: np.ndarray) -> IntArray:
    """Half up; NumPy's own rounding goes to even."""
    return np.floor(values + 0.5).astype(np.int64)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
