"""Histograms of counts about people, released with discrete Laplace noise (two-sided geometric).

The article's "Laplace" on whole numbers: P(z) is proportional to exp(-|z| / scale), which gives the same epsilon as the
continuous law (Ghosh, Roughgarden, Sundararajan 2009). No float Laplace is offered: the low bits of its samples betray
the count (Mironov 2012). Samples are exact, drawn by whole-number arithmetic (Canonne, Kamath, Steinke 2020,
algorithm 2); the time they take is not constant and must not be observable.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.units import check_count, check_epsilon
from mmfed.rng import derive, hash_uniform, user_key
from mmfed.types import IntArray

_LARGEST_SCALE = 2**50  # a sample beyond 2^62 then has probability exp(-4096)


@dataclass(frozen=True, kw_only=True)
class ReleasedCounts:
    """Noised counts and what they promise.

    Args:
        counts: whole numbers, [cells], unbiased for the clipped counts; may be negative (cutting at 0 is free).
        epsilon: of this release, nats; delta is 0. Releases about the same people add up.
        sensitivity: L1, counts one user can change.
        scale: of the noise, sensitivity / epsilon.
        noise: where it came from.
        unit: what is protected.
        adjacency: which data sets are neighbours.
        trust: who sees the true counts.
    """

    counts: IntArray
    epsilon: float
    sensitivity: int
    scale: float
    noise: str
    unit: str = "one user (everything the user contributed to this histogram)"
    adjacency: str = "add/remove one user"
    trust: str = "whoever counts is trusted to add the noise and to discard the true counts"

    def sentence(self) -> str:
        """One line that carries epsilon, unit, adjacency and trust."""
        return (
            f"epsilon = {self.epsilon:.4g}, delta = 0; unit: {self.unit}; adjacency: {self.adjacency}; "
            f"trust: {self.trust}; noise: {self.noise}."
        )


def release_counts(
    users: Sequence[Hashable],
    cells: Sequence[int] | IntArray,
    *,
    size: int,
    max_cells: int,
    max_per_cell: int,
    epsilon: float,
    seed: int | None = None,
) -> ReleasedCounts:
    """Clip what every user contributes, count, and add noise to **every** cell.

    Guarantee: epsilon-DP with unit, adjacency and trust as in ``ReleasedCounts``. The caller charges it to the budget
    line of statistics. ``size`` and the two bounds must be fixed without looking at the data.

    Args:
        users: who contributed, [rows].
        cells: to which cell, 0 to ``size`` - 1, [rows].
        size: number of cells.
        max_cells: most cells one user counts in.
        max_per_cell: most one user counts in a cell.
        epsilon: of the release.
        seed: reproducible noise, for simulation only: it protects nobody. None draws from the operating system.

    Raises:
        MmfedError: a parameter out of range, columns of different length, a cell that does not exist.
    """
    check_epsilon(epsilon)
    clipped = clip_contributions(users, cells, size=size, max_cells=max_cells, max_per_cell=max_per_cell)
    sensitivity = max_cells * max_per_cell
    scale = sensitivity / Fraction(epsilon)
    if scale > _LARGEST_SCALE:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"epsilon = {epsilon!r} with sensitivity {sensitivity}: the noise would outgrow whole numbers of 64 bits.",
            "use a larger epsilon or tighter bounds on a user.",
        )
    source = random.SystemRandom() if seed is None else random.Random(derive(seed, "privacy-noise", "counts"))
    noise = np.array([discrete_laplace(scale, source) for _ in range(size)], dtype=np.int64)
    return ReleasedCounts(
        counts=clipped + noise,
        epsilon=epsilon,
        sensitivity=sensitivity,
        scale=float(scale),
        noise="operating system" if seed is None else "seeded (simulation only; protects nobody)",
    )


def clip_contributions(
    users: Sequence[Hashable], cells: Sequence[int] | IntArray, *, size: int, max_cells: int, max_per_cell: int
) -> IntArray:
    """True counts [cells] in which one user accounts for at most ``max_cells`` cells and ``max_per_cell`` in each.

    A user with more cells keeps those with most rows; ties go by a hash of user and cell, so that no cell is favoured.
    The choice depends on the user's own rows alone, so a user changes the counts by at most the product in L1 norm.

    Raises:
        MmfedError: see ``release_counts``.
    """
    for name, value in (("size", size), ("max_cells", max_cells), ("max_per_cell", max_per_cell)):
        check_count(name, value)
    where = np.asarray(cells)
    if len(users) != where.size or where.ndim != 1:
        raise MmfedError(
            ExitCode.DATA, f"{len(users)} users beside cells {where.shape}.", "give one user and one cell a row."
        )
    if where.size == 0:
        return np.zeros(size, dtype=np.int64)
    if not np.issubdtype(where.dtype, np.integer) or where.min() < 0 or where.max() >= size:
        raise MmfedError(ExitCode.DATA, f"cells outside 0 to {size - 1}.", "number the cells 0 to size - 1.")
    positions = {user: number for number, user in enumerate(dict.fromkeys(users))}
    of_row = np.array([positions[user] for user in users], dtype=np.int64)
    pairs, rows = np.unique(np.column_stack([of_row, where.astype(np.int64)]), axis=0, return_counts=True)
    owner, cell = pairs.T
    keys = np.array([user_key(str(user)) for user in positions], dtype=np.uint64)
    ties = hash_uniform(derive(0, "counts"), keys[owner], cell[:, None])[:, 0]
    order = np.lexsort((ties, -rows, owner))
    starts = np.searchsorted(owner, np.arange(len(positions)))
    kept = order[np.arange(len(order)) - starts[owner[order]] < max_cells]
    counts = np.zeros(size, dtype=np.int64)
    np.add.at(counts, cell[kept], np.minimum(rows[kept], max_per_cell))
    return counts


def discrete_laplace(scale: Fraction, source: random.Random) -> int:
    """One exact sample z with P(z) proportional to exp(-|z| / scale), all in whole numbers."""
    top, bottom = scale.numerator, scale.denominator
    while True:
        offset = source.randrange(top)
        if not _bernoulli_exp(offset, top, source):
            continue
        turns = 0
        while _bernoulli_exp(1, 1, source):
            turns += 1
        size = (offset + top * turns) // bottom
        negative = source.getrandbits(1)
        if not (negative and size == 0):
            return -size if negative else size


def _bernoulli_exp(numerator: int, denominator: int, source: random.Random) -> bool:
    """True with probability exp(-numerator / denominator), for a ratio in [0, 1] (same paper, algorithm 1)."""
    turn = 1
    while source.randrange(denominator * turn) < numerator:
        turn += 1
    return turn % 2 == 1
