"""Whether a table about people may be exported: k-anonymity, l-diversity, t-closeness of its equivalence classes.

A class is all rows that agree on the quasi-identifiers (what others may know of a person: age, region). One row is one
person. These are properties of one table. They are **no differential privacy**, they say nothing about model updates,
and they do not compose: two tables that each hold can single a person out together.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.units import check_count
from mmfed.types import BoolArray, FloatArray, IntArray

Table = pl.DataFrame | Mapping[str, Sequence[object]]

_SLACK = 1e-9  # float rounding: exp(log 3) is not 3
_CHUNK = 1 << 22  # cells of the matrix [classes, sensitive values] held at a time


@dataclass(frozen=True, kw_only=True)
class Demands:
    """What every class must meet; the defaults demand nothing.

    Args:
        k: at least this many people (Samarati and Sweeney 1998; Sweeney 2002, definition 3).
        distinct_l: at least this many distinct sensitive values (Machanavajjhala et al. 2007, section 4).
        entropy_l: exp of the entropy (nats) of the sensitive values at least this (same, definition 4.1).
        t: earth mover's distance of the sensitive values to those of the whole table at most this (Li et al. 2007).

    Raises:
        MmfedError: a value out of its range.
    """

    k: int = 1
    distinct_l: int = 1
    entropy_l: float = 1.0
    t: float = 1.0

    def __post_init__(self) -> None:
        check_count("k", self.k)
        check_count("distinct_l", self.distinct_l)
        for name, value, low, high in (("entropy_l", self.entropy_l, 1.0, math.inf), ("t", self.t, 0.0, 1.0)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                span = f"between {low:g} and {high:g}" if math.isfinite(high) else f"of at least {low:g}"
                raise MmfedError(ExitCode.PRIVACY, f"{name} = {value!r}: not allowed.", f"use a number {span}.")


@dataclass(frozen=True)
class ClassMeasures:
    """Per class, shape [classes] each: people, distinct sensitive values, exp(entropy), earth mover's distance."""

    sizes: IntArray
    distinct: IntArray
    entropy: FloatArray
    distance: FloatArray

    def failing(self, demands: Demands) -> dict[str, BoolArray]:
        """For every demand by name, the classes that miss it: bool, [classes]."""
        return {
            "k": self.sizes < demands.k,
            "distinct_l": self.distinct < demands.distinct_l,
            "entropy_l": self.entropy < demands.entropy_l * (1 - _SLACK),
            "t": self.distance > demands.t + _SLACK,
        }


@dataclass(frozen=True)
class OffendingClass:
    """A class that misses a demand: its quasi-identifiers, its measures and the demands by name."""

    values: tuple[object, ...]
    size: int
    distinct_l: int
    entropy_l: float
    t: float
    fails: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AnonymityReport:
    """What a table offers against what was demanded.

    Args:
        people: rows.
        sizes: people in every class, ascending.
        distinct_l: fewest distinct sensitive values in a class.
        entropy_l: least exp(entropy) of a class.
        t: largest earth mover's distance of a class.
        demands: what was asked.
        offending: classes that miss a demand, in order of first appearance. They single people out: not for export.
        unexamined: columns that are neither quasi-identifiers nor sensitive. The report says nothing about them.
    """

    people: int
    sizes: tuple[int, ...]
    distinct_l: int
    entropy_l: float
    t: float
    demands: Demands
    offending: tuple[OffendingClass, ...]
    unexamined: tuple[str, ...]

    @property
    def k(self) -> int:
        """People in the smallest class."""
        return self.sizes[0]

    @property
    def holds(self) -> bool:
        """Whether every class meets every demand."""
        return not self.offending

    def sentence(self) -> str:
        """One line that says what was found, and what it is not."""
        return (
            f"{'holds' if self.holds else 'DOES NOT HOLD'}: k = {self.k}, distinct l = {self.distinct_l}, "
            f"entropy l = {self.entropy_l:.4g}, t = {self.t:.4g} over {self.people} people in {len(self.sizes)} "
            "classes; no differential privacy, and nothing about model updates."
        )


def check(
    table: Table,
    *,
    quasi: Sequence[str],
    sensitive: str,
    k: int = 1,
    distinct_l: int = 1,
    entropy_l: float = 1.0,
    t: float = 1.0,
) -> AnonymityReport:
    """Measure every class of the table against the demands.

    Args:
        table: one row a person. A missing quasi-identifier is a value of its own.
        quasi: columns that others may know.
        sensitive: the column to protect. Numbers have the ordered distance |i - j| / (m - 1) between the i-th and j-th
            of m values in the table, anything else distance 1 (Li et al. 2007, section 5). Numbers whose order means
            nothing must be given as strings.
        k: see ``Demands``; so are the other three.
        distinct_l: fewest distinct sensitive values.
        entropy_l: least exp(entropy).
        t: largest earth mover's distance.

    Raises:
        MmfedError: no rows, an unknown or repeated column, a missing sensitive value, a demand out of range.
    """
    demands = Demands(k=k, distinct_l=distinct_l, entropy_l=entropy_l, t=t)
    frame = people_table(table, quasi, sensitive)
    codes = np.stack([distinct_codes(frame[name])[0] for name in quasi], axis=1)
    classes, first = group(codes)
    values, size, ordered = sensitive_codes(frame[sensitive])
    found = measure(classes, values, np.ones(frame.height, dtype=np.int64), values_count=size, ordered=ordered)
    failing = found.failing(demands)
    offending = tuple(
        OffendingClass(
            values=frame.select(quasi).row(int(first[one])),
            size=int(found.sizes[one]),
            distinct_l=int(found.distinct[one]),
            entropy_l=float(found.entropy[one]),
            t=float(found.distance[one]),
            fails=tuple(name for name, missed in failing.items() if missed[one]),
        )
        for one in sorted(np.flatnonzero(np.logical_or.reduce(list(failing.values()))), key=lambda one: first[one])
    )
    return AnonymityReport(
        people=frame.height,
        sizes=tuple(sorted(found.sizes.tolist())),
        distinct_l=int(found.distinct.min()),
        entropy_l=float(found.entropy.min()),
        t=float(found.distance.max()),
        demands=demands,
        offending=offending,
        unexamined=tuple(name for name in frame.columns if name != sensitive and name not in quasi),
    )


def measure(
    classes: IntArray, values: IntArray, weights: IntArray, *, values_count: int, ordered: bool
) -> ClassMeasures:
    """Measures of every class from rows that stand for ``weights`` people each.

    Args:
        classes: class of a row, 0 to classes - 1, each at least once, [rows].
        values: sensitive value of a row, 0 to ``values_count`` - 1, in ascending order when ``ordered``, [rows].
        weights: people a row stands for, [rows].
        values_count: number of codes; those that no row has are left out of the order.
        ordered: ordered distance, else equal distance.
    """
    overall = np.bincount(values, weights=weights, minlength=values_count)
    kept = np.flatnonzero(overall)
    overall = overall[kept] / overall.sum()
    values = np.searchsorted(kept, values)
    order = np.argsort(classes, kind="stable")
    classes, values, weights = classes[order], values[order], weights[order]
    count, width = int(classes[-1]) + 1, len(kept)
    sizes, distinct = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    entropy, distance = np.zeros(count), np.zeros(count)
    step = max(1, _CHUNK // width)
    for start in range(0, count, step):
        stop = min(count, start + step)
        rows = slice(np.searchsorted(classes, start), np.searchsorted(classes, stop))
        cells = (classes[rows] - start) * width + values[rows]
        people = np.bincount(cells, weights=weights[rows], minlength=(stop - start) * width).reshape(-1, width)
        sizes[start:stop] = people.sum(axis=1)
        distinct[start:stop] = (people > 0).sum(axis=1)
        shares = people / people.sum(axis=1, keepdims=True)
        entropy[start:stop] = np.exp(-(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1))
        apart = shares - overall
        if ordered:  # Li et al. 2007, section 5.1
            distance[start:stop] = np.abs(np.cumsum(apart, axis=1)).sum(axis=1) / max(1, width - 1)
        else:  # section 5.2
            distance[start:stop] = np.abs(apart).sum(axis=1) / 2
    return ClassMeasures(sizes, distinct, entropy, distance)


def people_table(table: Table, quasi: Sequence[str], sensitive: str) -> pl.DataFrame:
    """The table as a frame, with the columns named present and usable (see ``check``)."""
    if isinstance(quasi, str) or not quasi or len(set(quasi)) != len(quasi) or sensitive in quasi:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"quasi-identifiers {quasi!r} beside sensitive column {sensitive!r}: not allowed.",
            "name at least one quasi-identifier, each once, and the sensitive column apart from them.",
        )
    frame = table if isinstance(table, pl.DataFrame) else pl.DataFrame(dict(table), strict=False)
    for name in (*quasi, sensitive):
        if name not in frame.columns:
            raise MmfedError(ExitCode.DATA, f"column {name!r}: missing.", f"name one of {', '.join(frame.columns)}.")
        column = frame[name]
        if column.dtype.is_nested() or column.dtype == pl.Object:
            raise MmfedError(ExitCode.DATA, f"column {name!r} holds {column.dtype}.", "give one plain value a person.")
        if column.dtype.is_float() and not column.drop_nulls().is_finite().all():
            raise MmfedError(ExitCode.DATA, f"column {name!r} has NaN or infinite values.", "make them missing (null).")
    if frame.height == 0:
        raise MmfedError(ExitCode.DATA, "the table of people has no rows.", "give at least one row.")
    if frame[sensitive].null_count():
        raise MmfedError(
            ExitCode.DATA,
            f"column {sensitive!r}: {frame[sensitive].null_count()} sensitive values are missing.",
            "leave those people out, or give them a label of their own.",
        )
    return frame


def distinct_codes(column: pl.Series) -> tuple[IntArray, list[Hashable]]:
    """Rows as positions in the list of distinct values (missing among them), in order of appearance: [rows]."""
    rows = column.to_list()
    positions = {value: number for number, value in enumerate(dict.fromkeys(rows))}
    return np.array([positions[value] for value in rows], dtype=np.int64), list(positions)


def sensitive_codes(column: pl.Series) -> tuple[IntArray, int, bool]:
    """Codes of the sensitive values (ascending for numbers), their number, and whether their order counts."""
    codes, values = distinct_codes(column)
    if not column.dtype.is_numeric():
        return codes, len(values), False
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[sorted(range(len(values)), key=lambda one: values[one])] = np.arange(len(values))  # pyright: ignore[reportArgumentType, reportCallIssue]
    return ranks[codes], len(values), True


def group(codes: IntArray) -> tuple[IntArray, IntArray]:
    """Class of every row, and the first row of every class, for codes [rows, columns]."""
    classes = np.zeros(len(codes), dtype=np.int64)
    first = np.zeros(1, dtype=np.int64)
    for column in codes.T:
        _, first, classes = np.unique(
            classes * (int(column.max()) + 1) + column, return_index=True, return_inverse=True
        )
    return classes, first
