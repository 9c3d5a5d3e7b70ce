"""From single updates to one that a few hostile devices cannot steer: bounded rows, median, trimmed mean.

Each reads the update of every user apart. Under secure aggregation there is none to read. A median or trimmed mean is
no sum of clipped updates either, so the noise of the modes in which the coordinator adds it would not be sized for it:
one user can move every coordinate at once, each by the gap to its neighbour, and all together by far more than a clip
norm.
A bound on rows only ever shortens an update, so a sum of clipped updates keeps its sensitivity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmfed.config import DefenceSection
from mmfed.types import FloatArray, IntArray

_COORDINATES = 1 << 16  # at a time: sorting a block of all users' coordinates stays in memory


@dataclass(frozen=True, eq=False)
class RowBound:
    """A bound on what one user changes of one item.

    Attributes:
        places: [items, numbers] where an item's numbers are in a flat update.
        bound: on their L2 norm.
    """

    places: IntArray
    bound: float

    def applied(self, update: FloatArray) -> tuple[FloatArray, int]:
        """The update with longer rows scaled down to the bound, and how many these were."""
        rows = update[self.places]
        largest = np.abs(rows).max(axis=1, initial=0)  # scaled first: squares of huge numbers would overflow
        units = rows / np.where(largest > 0, largest, 1)[:, None]
        with np.errstate(over="ignore"):  # a norm that overflows is infinite, and too large
            long = largest * np.linalg.norm(units, axis=1) > self.bound
        if not long.any():
            return update, 0
        shortened = update.copy()
        lengths = np.linalg.norm(units[long], axis=1, keepdims=True)
        shortened[self.places[long]] = units[long] / lengths * self.bound
        return shortened, int(long.sum())


def row_bound(
    section: DefenceSection, shapes: Mapping[str, tuple[int, ...]], row_parameters: Sequence[str]
) -> RowBound | None:
    """The bound that the configuration asks for; None where it asks for none, or the model has no row per item.

    Args:
        shapes: of a flat update, in wire order.
        row_parameters: names of those with one row per item.
    """
    if section.row_bound is None or not row_parameters:
        return None
    places, start = [], 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        if name in row_parameters:
            places.append(start + np.arange(size).reshape(shape[0], -1))
        start += size
    return RowBound(np.concatenate(places, axis=1), section.row_bound)


def centre(updates: Sequence[FloatArray], section: DefenceSection) -> FloatArray:
    """The coordinate-wise median or trimmed mean (Yin et al. 2018) of single updates.

    Args:
        updates: at least one, flat.
        section: trims ⌊trim · updates⌋ at either end.
    """
    cut = (len(updates) - 1) // 2 if section.aggregation == "median" else int(section.trim * len(updates))
    found = np.empty_like(updates[0])
    for start in range(0, len(found), _COORDINATES):
        part = slice(start, start + _COORDINATES)
        ranked = np.sort(np.stack([update[part] for update in updates]), axis=0)
        found[part] = ranked[cut : len(updates) - cut].mean(axis=0)
    return found
