"""How a quasi-identifier is made coarser, level by level: numbers into nested bins, labels to their parents."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmfed.errors import ExitCode, MmfedError

MISSING = "missing"
ANYTHING = "*"

_LARGEST_BIN = 2**53


@dataclass(frozen=True)
class Bins:
    """Numbers: exact, then bins [i w, (i + 1) w) of every width w, then "*".

    Args:
        widths: ascending, each a whole multiple of the one before, so that bins nest. They start at 0, never at the
            smallest value of the table, which would tell it.
        anything: whether "*" is the last level.
    """

    widths: tuple[float, ...]
    anything: bool = True


@dataclass(frozen=True)
class Parents:
    """Labels: exact, then the parent of every label, then the parent of that one, ..., then "*".

    Args:
        levels: one mapping a level, from every label of the level below; none leaves exact or "*".
        anything: whether "*" is the last level.
    """

    levels: tuple[Mapping[str, str], ...] = ()
    anything: bool = True


Hierarchy = Bins | Parents


@dataclass(frozen=True)
class Level:
    """What the distinct values of a column become: a label each, and the loss each suffers, in [0, 1]."""

    labels: tuple[Hashable, ...]
    losses: tuple[float, ...]


def levels_of(name: str, hierarchy: Hierarchy, values: Sequence[Hashable]) -> list[Level]:
    """Every level of a column, from exact to coarsest.

    Loss is the normalised certainty penalty (Xu et al. 2006): a bin's width over the range of the column, or (labels
    under the parent - 1) / (labels - 1), over those in the table.

    Args:
        name: column, for faults.
        hierarchy: of the column.
        values: distinct values of the column; None is missing, and stays so on every level but "*".

    Raises:
        MmfedError: widths that do not nest, text where bins are asked for, a label without parent.
    """
    exact = Level(tuple(values), (0.0,) * len(values))
    levels = _bins(name, hierarchy, values) if isinstance(hierarchy, Bins) else _parents(name, hierarchy, values)
    last = [Level((ANYTHING,) * len(values), (1.0,) * len(values))] if hierarchy.anything else []
    return [exact, *levels, *last]


def _bins(name: str, hierarchy: Bins, values: Sequence[Hashable]) -> list[Level]:
    known = [value for value in values if value is not None]
    if any(isinstance(value, (str, bool)) or not isinstance(value, (int, float)) for value in known):
        raise MmfedError(ExitCode.DATA, f"column {name!r} is not all numbers.", "use Parents for labels.")
    numbers = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    spread = float(np.nanmax(numbers) - np.nanmin(numbers)) if known else 0.0
    indices = np.zeros(0)
    levels, previous = [], None
    for width in hierarchy.widths:
        if not isinstance(width, (int, float)) or not math.isfinite(width) or width <= 0:
            raise MmfedError(ExitCode.PRIVACY, f"{name}: bin width {width!r}.", "use finite widths above 0.")
        if previous is None:
            turns = numbers / width
            whole = np.round(turns)  # 0.3 / 0.1 is a little less than 3
            indices = np.where(np.isclose(turns, whole, rtol=1e-12, atol=0.0), whole, np.floor(turns))
        else:
            times = round(width / previous)
            if times < 2 or not math.isclose(width, times * previous, rel_tol=1e-9):
                raise MmfedError(
                    ExitCode.PRIVACY,
                    f"{name}: bins of width {width:g} do not nest in those of {previous:g}.",
                    "make every width a whole multiple of the one before.",
                )
            indices = np.floor(indices / times)  # from indices: bins nest whatever floats do
        if known and np.nanmax(np.abs(indices)) >= _LARGEST_BIN:
            raise MmfedError(ExitCode.PRIVACY, f"{name}: bins of {width:g} are too narrow.", "use wider bins.")
        labels = tuple(MISSING if math.isnan(at) else f"[{at * width:.12g}, {(at + 1) * width:.12g})" for at in indices)
        loss = min(1.0, width / spread) if spread > 0 else 0.0
        levels.append(Level(labels, tuple(0.0 if label == MISSING else loss for label in labels)))
        previous = width
    return levels


def _parents(name: str, hierarchy: Parents, values: Sequence[Hashable]) -> list[Level]:
    labels = [MISSING if value is None else str(value) for value in values]
    levels = []
    for number, parents in enumerate(hierarchy.levels, start=1):
        orphans = sorted({label for label in labels if label not in parents and label != MISSING})
        if orphans:
            raise MmfedError(
                ExitCode.PRIVACY,
                f"{name}: {orphans[0]!r} has no parent on level {number} ({len(orphans)} such labels).",
                "give every label of the level below a parent.",
            )
        labels = [parents.get(label, MISSING) for label in labels]
        leaves = Counter(labels)
        total = max(1, len(labels) - 1)
        levels.append(Level(tuple(labels), tuple((leaves[label] - 1) / total for label in labels)))
    return levels
