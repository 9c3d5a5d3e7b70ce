"""Cleaning of a shop and scaling of its numbers; every change is told in ``Shop.notes``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from mmfed.data.schema import Catalogue, Interactions, Shop
from mmfed.errors import ExitCode, MmfedError
from mmfed.types import BoolArray, FloatArray, IntArray

OUTLIER_Z = 8.0
NOTHING_LEFT = "no interactions are left after cleaning"
NOTHING_LEFT_FIX = "lower data.minimum_value or add interactions."


def clean(shop: Shop, *, repeats: Literal["first", "last", "all"], minimum_value: float | None) -> Shop:
    """Drop low ratings, thin out repeated items of a user, leave out users who end up empty, clip absurd prices.

    Raises:
        MmfedError: nothing is left.
    """
    cleaned = clean_interactions(shop.interactions, shop.parts, repeats=repeats, minimum_value=minimum_value)
    if len(cleaned.interactions) == 0:
        raise MmfedError(ExitCode.DATA, f"{shop.name}: {NOTHING_LEFT}.", NOTHING_LEFT_FIX)
    notes = cleaning_notes(cleaned.dropped, repeats=repeats, minimum_value=minimum_value)
    catalogue, clipped = clip_price_outliers(shop.catalogue)
    return replace(
        shop,
        catalogue=catalogue,
        interactions=cleaned.interactions,
        parts=cleaned.parts,
        notes=(*shop.notes, *notes, *clipped),
    )


class Cleaned(NamedTuple):
    """What cleaning leaves of some users' interactions.

    Attributes:
        parts: as in ``Shop``.
        dropped: rows of too low a value, rows that repeat an item, users without rows.
    """

    interactions: Interactions
    parts: IntArray | None
    dropped: tuple[int, int, int]


def clean_interactions(
    interactions: Interactions,
    parts: IntArray | None,
    *,
    repeats: Literal["first", "last", "all"],
    minimum_value: float | None,
) -> Cleaned:
    """``clean`` for the private side alone; each user is decided by the own rows."""
    dropped = []
    for keep in (
        lambda rows: valued_at_least(rows, minimum_value),
        lambda rows: without_repeats(rows, repeats),
    ):
        kept = keep(interactions)
        dropped.append(int((~kept).sum()))
        if dropped[-1]:
            interactions = interactions.keep_rows(kept)
            parts = None if parts is None else parts[kept]
    empty = interactions.lengths == 0
    if empty.any():
        # Rows stay in place: only users without rows go, so parts stay aligned.
        interactions = interactions.keep_users(np.flatnonzero(~empty))
    return Cleaned(interactions, parts, (dropped[0], dropped[1], int(empty.sum())))


def cleaning_notes(
    dropped: tuple[int, int, int], *, repeats: Literal["first", "last", "all"], minimum_value: float | None
) -> list[str]:
    """``Cleaned.dropped`` in words, one line each."""
    said = (
        f"interactions valued below {minimum_value} were dropped",
        f"repeats of an item by the same user were dropped (the {repeats} one stays)",
        "users without interactions were left out",
    )
    return [f"{count} {words}" for count, words in zip(dropped, said, strict=True) if count]


def valued_at_least(interactions: Interactions, minimum: float | None) -> BoolArray:
    """[interactions] true for rows to keep: those without a value, and those whose value reaches ``minimum``."""
    if minimum is None:
        return np.ones(len(interactions), dtype=bool)
    return ~(interactions.values < minimum)  # NaN compares false: a view without a rating stays


def without_repeats(interactions: Interactions, repeats: Literal["first", "last", "all"]) -> BoolArray:
    """[interactions] true for rows to keep, so that a user holds an item once (all: as often as it happened)."""
    rows = len(interactions)
    if repeats == "all" or rows == 0:
        return np.ones(rows, dtype=bool)
    pairs = interactions.user_of_row() * np.int64(interactions.item_count) + interactions.items
    if repeats == "last":
        pairs = pairs[::-1]
    keep = np.zeros(rows, dtype=bool)
    keep[np.unique(pairs, return_index=True)[1]] = True  # index of the first occurrence
    return keep[::-1] if repeats == "last" else keep


def price_outliers(prices: FloatArray, *, z: float = OUTLIER_Z) -> tuple[BoolArray, float, float]:
    """Which prices [items] lie beyond ``z`` robust deviations of log1p(price), and the range that does not.

    The deviation is 1.4826 times the median absolute deviation (Iglewicz and Hoaglin 1993); where more than half of the
    prices are equal it is 1.2533 times the mean absolute deviation.
    """
    known = np.isfinite(prices)
    if known.sum() < 3:
        return np.zeros(len(prices), dtype=bool), 0.0, np.inf
    logs = np.log1p(prices[known].astype(np.float64))
    middle = np.median(logs)
    scale = 1.4826 * np.median(np.abs(logs - middle)) or 1.2533 * np.mean(np.abs(logs - middle))
    if scale == 0:
        return np.zeros(len(prices), dtype=bool), 0.0, np.inf
    low, high = max(float(np.expm1(middle - z * scale)), 0.0), float(np.expm1(middle + z * scale))
    return known & ((prices < low) | (prices > high)), low, high


def clip_price_outliers(catalogue: Catalogue) -> tuple[Catalogue, list[str]]:
    """The catalogue with absurd prices moved to the nearest plausible one, and a note that names the items."""
    outliers, low, high = price_outliers(catalogue.prices)
    if not outliers.any():
        return catalogue, []
    named = ", ".join(catalogue.item_ids[i] for i in np.flatnonzero(outliers)[:5])
    note = (
        f"{int(outliers.sum())} prices beyond {OUTLIER_Z:g} robust deviations were clipped to "
        f"{low:.2f} … {high:.2f} (items {named})"
    )
    return replace(catalogue, prices=np.where(outliers, np.clip(catalogue.prices, low, high), catalogue.prices)), [note]


@dataclass(frozen=True, eq=False)
class Standardised:
    """A numeric column with zero mean and unit variance over the items that have it.

    Attributes:
        values: [items] float32; 0 (the mean) where missing.
        present: [items] bool.
        mean, scale: of the public catalogue, so that a new item can be put on the same scale.
    """

    values: FloatArray
    present: BoolArray
    mean: float
    scale: float


def standardise(column: FloatArray, *, logarithm: bool = False) -> Standardised:
    """Centre and scale a column [items] over the public catalogue; NaN is missing. ``logarithm`` takes log1p first.

    A column that never changes, or is missing throughout, becomes zeros.
    """
    present = np.isfinite(column)
    known = column[present].astype(np.float64)
    known = np.log1p(known) if logarithm else known
    mean = float(known.mean()) if known.size else 0.0
    deviation = float(known.std()) if known.size else 0.0
    scale = deviation if deviation > 1e-9 * max(abs(mean), 1.0) else 1.0
    values = np.zeros(len(column), dtype=np.float32)
    if deviation > 1e-9 * max(abs(mean), 1.0):
        values[present] = (known - mean) / scale
    return Standardised(values=values, present=present, mean=mean, scale=scale)


def standardised_numbers(catalogue: Catalogue) -> Mapping[str, Standardised]:
    """Every numeric attribute, and log1p of the price as ``price``; columns missing throughout are left out."""
    columns = {name: standardise(values) for name, values in catalogue.numeric.items()}
    if np.isfinite(catalogue.prices).any():
        columns["price"] = standardise(catalogue.prices, logarithm=True)
    return {name: column for name, column in columns.items() if column.present.any()}
