"""Make a table of people fit for export: global recoding along hierarchies, and suppression of what is left over.

No differential privacy, and nothing about model updates (see ``privacy.anonymity``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.anonymity import (
    AnonymityReport,
    Demands,
    Table,
    check,
    distinct_codes,
    group,
    measure,
    people_table,
    sensitive_codes,
)
from mmfed.privacy.hierarchies import Hierarchy, Level, levels_of
from mmfed.privacy.units import check_rate
from mmfed.types import BoolArray, IntArray

_MOST_NODES = 20_000


@dataclass(frozen=True, kw_only=True)
class Anonymised:
    """A table that meets its demands.

    Args:
        table: quasi-identifiers and the sensitive column only, people in their former order.
        levels: level chosen for every quasi-identifier; 0 leaves it as it was.
        suppressed: people left out.
        loss: mean normalised certainty penalty of a quasi-identifier, in [0, 1]; a suppressed person counts 1.
        report: of ``table``; it always holds.
    """

    table: pl.DataFrame
    levels: dict[str, int]
    suppressed: int
    loss: float
    report: AnonymityReport


@dataclass(frozen=True)
class _Cells:
    """People alike in all columns, counted once."""

    codes: IntArray  # distinct values of the quasi-identifiers, [cells, quasi]
    sensitive: IntArray  # [cells]
    people: IntArray  # [cells]
    values_count: int
    ordered: bool


def anonymise(
    table: Table,
    hierarchies: Mapping[str, Hierarchy],
    *,
    sensitive: str,
    k: int,
    distinct_l: int = 1,
    entropy_l: float = 1.0,
    t: float = 1.0,
    max_suppressed: float = 0.0,
) -> Anonymised:
    """The least generalised table that meets the demands.

    All combinations of levels are tried by ascending sum of levels (Samarati 2001); of the first sum with a solution,
    the one of least loss is taken, ties to lower levels of earlier columns. In each, classes that miss a demand are
    suppressed, again until none is left, because suppression moves the distribution that t refers to. Deterministic.

    Args:
        table: one row a person.
        hierarchies: of every quasi-identifier, by column.
        sensitive: the column to protect (see ``check``); it is released as it is.
        k: see ``Demands``; so are the next three.
        distinct_l: fewest distinct sensitive values.
        entropy_l: least exp(entropy).
        t: largest earth mover's distance.
        max_suppressed: largest share of people left out, in [0, 1).

    Raises:
        MmfedError: what ``check`` and ``levels_of`` raise; no level meets the demands (names them); too many levels.
    """
    demands = Demands(k=k, distinct_l=distinct_l, entropy_l=entropy_l, t=t)
    if max_suppressed != 0.0 and check_rate("max_suppressed", max_suppressed) == 1.0:
        raise MmfedError(ExitCode.PRIVACY, "max_suppressed = 1: nothing would be left.", "use a share below 1.")
    quasi = list(hierarchies)
    frame = people_table(table, quasi, sensitive).select(*quasi, sensitive)
    columns = [distinct_codes(frame[name]) for name in quasi]
    ladders = [levels_of(name, hierarchies[name], values) for name, (_, values) in zip(quasi, columns, strict=True)]
    codes = np.stack([codes for codes, _ in columns], axis=1)
    values, values_count, ordered = sensitive_codes(frame[sensitive])
    rows = np.column_stack([codes, values])
    of_row, first = group(rows)
    cells = _Cells(codes[first], values[first], np.bincount(of_row), values_count, ordered)
    allowed = math.floor(max_suppressed * frame.height + 1e-9)

    chosen, kept, loss = _search(cells, ladders, demands, allowed)
    released = frame.with_columns(
        pl.Series(name, [ladder[level].labels[code] for code in codes[:, position]])
        for position, (name, ladder, level) in enumerate(zip(quasi, ladders, chosen, strict=True))
        if level > 0
    ).filter(pl.Series(kept[of_row]))
    report = check(released, quasi=quasi, sensitive=sensitive, k=k, distinct_l=distinct_l, entropy_l=entropy_l, t=t)
    if not report.holds:
        raise RuntimeError("the search and the check disagree")
    return Anonymised(
        table=released,
        levels=dict(zip(quasi, chosen, strict=True)),
        suppressed=frame.height - released.height,
        loss=loss,
        report=report,
    )


def _search(
    cells: _Cells, ladders: list[list[Level]], demands: Demands, allowed: int
) -> tuple[tuple[int, ...], BoolArray, float]:
    """Levels, kept cells (bool, [cells]) and loss of the solution."""
    nodes = math.prod(len(ladder) for ladder in ladders)
    if nodes > _MOST_NODES:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"{nodes} combinations of levels are more than {_MOST_NODES}.",
            "give fewer quasi-identifiers or fewer levels.",
        )
    coded = [[_level_codes(level, cells.codes[:, at]) for level in ladder] for at, ladder in enumerate(ladders)]
    losses = [[np.array(level.losses)[cells.codes[:, at]] for level in ladder] for at, ladder in enumerate(ladders)]
    combinations = sorted(
        itertools.product(*(range(len(ladder)) for ladder in ladders)), key=lambda one: (sum(one), one)
    )
    for _, same_sum in itertools.groupby(combinations, key=sum):
        found: list[tuple[float, tuple[int, ...], BoolArray]] = []
        for node in same_sum:
            classes, _ = group(np.stack([coded[at][level] for at, level in enumerate(node)], axis=1))
            kept = _suppress(cells, classes, demands, allowed)
            if kept is not None:
                each = np.mean([losses[at][level] for at, level in enumerate(node)], axis=0)
                loss = float(np.average(np.where(kept, each, 1.0), weights=cells.people))
                found.append((loss, node, kept))
        if found:
            loss, node, kept = min(found, key=lambda one: one[:2])
            return node, kept, loss
    raise _impossible(cells, coded, demands, allowed)


def _level_codes(level: Level, codes: IntArray) -> IntArray:
    positions = {label: number for number, label in enumerate(dict.fromkeys(level.labels))}
    return np.array([positions[label] for label in level.labels], dtype=np.int64)[codes]


def _suppress(cells: _Cells, classes: IntArray, demands: Demands, allowed: int) -> BoolArray | None:
    """Cells that stay once every offending class is gone; None when that takes too many people."""
    kept = np.ones(len(classes), dtype=bool)
    while True:
        _, numbered = np.unique(classes[kept], return_inverse=True)
        found = measure(
            numbered, cells.sensitive[kept], cells.people[kept], values_count=cells.values_count, ordered=cells.ordered
        )
        missed = np.logical_or.reduce(list(found.failing(demands).values()))[numbered]
        if not missed.any():
            return kept
        kept[np.flatnonzero(kept)[missed]] = False
        if not kept.any() or cells.people[~kept].sum() > allowed:
            return None


def _impossible(cells: _Cells, coded: list[list[IntArray]], demands: Demands, allowed: int) -> MmfedError:
    classes, _ = group(np.stack([levels[-1] for levels in coded], axis=1))
    found = measure(classes, cells.sensitive, cells.people, values_count=cells.values_count, ordered=cells.ordered)
    offered = {
        "k": int(found.sizes.min()),
        "distinct_l": int(found.distinct.min()),
        "entropy_l": float(found.entropy.min()),
        "t": float(found.distance.max()),
    }
    missed = "; ".join(
        f"{name} = {getattr(demands, name):g} ({int(found.sizes[where].sum())} people in classes that miss it, "
        f"worst {offered[name]:.4g})"
        for name, where in found.failing(demands).items()
        if where.any()
    )
    return MmfedError(
        ExitCode.PRIVACY,
        f"no level of generalisation meets {missed} on the coarsest levels, with at most {allowed} people suppressed.",
        "ask for less, give coarser last levels ('*'), or raise max_suppressed.",
    )
