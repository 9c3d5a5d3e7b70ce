"""What every figure rests on: who is ranked against what, and how ties and sampled candidates are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, get_args

import numpy as np

from mmfed.errors import ExitCode, MmfedError
from mmfed.rng import derive, hash_uniform
from mmfed.types import BoolArray, FloatArray, IntArray

ProtocolName = Literal["full", "sampled@99", "paper-compat"]

ScoreFunction = Callable[[IntArray], FloatArray]
"""Maps user indices [users] to scores [users, items]; -inf marks an item the scorer cannot recommend."""

Progress = Callable[[int, int], None]
"""Called with (users done, users in all)."""

SAMPLED_NEGATIVES = 99
BLOCK_CELLS = 2**25  # scores held at once; keeps a block near 128 MiB in float32


class ItemLists(Protocol):
    """Any CSR of items by user: user ``u`` owns ``items[indptr[u]:indptr[u + 1]]``."""

    @property
    def indptr(self) -> IntArray: ...

    @property
    def items(self) -> IntArray: ...

    @property
    def user_count(self) -> int: ...


def describe_protocol(protocol: ProtocolName) -> str:
    """One line for tables and plots.

    Raises:
        MmfedError: the protocol has no such name.
    """
    if protocol == "full":
        return "full ranking of the catalogue, known items removed, ties broken against the relevant item"
    if protocol == "sampled@99":
        return "sampled@99: each user's relevant items against 99 random unseen items; not comparable with full ranking"
    if protocol == "paper-compat":
        return "paper-compat: 99 sampled candidates, as in published work whose training negatives avoid the test items"
    raise MmfedError(
        ExitCode.CONFIG,
        f"evaluation.protocol: '{protocol}' is not known.",
        f"choose one of {', '.join(get_args(ProtocolName))}.",
    )


def tie_keys(item_ids: Sequence[str], seed: int) -> FloatArray:
    """[items] uniforms in [0, 1) that order equal scores: a seeded hash of the item's id, never its index."""
    return np.array([derive(seed, "tie", item_id) for item_id in item_ids], dtype=np.float64) * 2.0**-64


def index_tie_keys(item_count: int, seed: int) -> FloatArray:
    """[items] like ``tie_keys`` where only the index is known: a seeded hash scatters it."""
    return hash_uniform(derive(seed, "tie"), np.zeros(1, dtype=np.int64), np.arange(item_count))[0]


def flatten(lists: ItemLists, users: IntArray) -> tuple[IntArray, IntArray]:
    """Rows of some users as pairs: position in ``users`` and item, both [pairs], ordered by position."""
    starts = np.asarray(lists.indptr)[users]
    lengths = np.asarray(lists.indptr)[users + 1] - starts
    rows = np.repeat(np.arange(len(users)), lengths)
    offsets = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return rows, np.asarray(lists.items)[np.repeat(starts, lengths) + offsets].astype(np.int64)


def distinct(rows: IntArray, items: IntArray, item_count: int) -> tuple[IntArray, IntArray]:
    """The pairs without repeats, ordered by row then item."""
    cells = np.unique(rows.astype(np.int64) * item_count + items)
    return cells // item_count, cells % item_count


def score_block(score: ScoreFunction, users: IntArray, item_count: int) -> FloatArray:
    """A private floating copy of the scores of some users: [users, items].

    Raises:
        MmfedError: wrong shape, or NaN, which would rank nowhere in particular.
    """
    raw = np.asarray(score(users))
    if raw.shape != (len(users), item_count):
        raise MmfedError(
            ExitCode.FAULT,
            f"the score function returned shape {raw.shape} for {len(users)} users and {item_count} items.",
            f"return [users, items] = ({len(users)}, {item_count}).",
        )
    scores = np.array(raw, dtype=raw.dtype if raw.dtype in (np.float32, np.float64) else np.float64)
    nan = np.isnan(scores)
    if nan.any():
        row, item = np.argwhere(nan)[0]
        raise MmfedError(
            ExitCode.CONFIG,
            f"score of user {int(users[row])} for item {int(item)} is NaN ({int(nan.sum())} NaN in this block).",
            "the model diverged: lower the learning rate; use -inf for items that cannot be recommended.",
        )
    return scores


def sampled_candidates(
    users: IntArray,
    item_count: int,
    *,
    excluded: tuple[IntArray, IntArray],
    seed: int,
    count: int = SAMPLED_NEGATIVES,
) -> BoolArray:
    """[users, items] true for ``count`` uniform items per user outside ``excluded`` pairs (all there are, if fewer).

    A user's draw depends on (seed, user index) only, so it is the same for every model and block size.
    """
    keys = hash_uniform(derive(seed, "sampled"), users, np.arange(item_count))
    keys[excluded] = 2.0
    if count >= item_count:
        return keys < 2.0
    threshold = np.partition(keys, count - 1, axis=1)[:, count - 1 : count]
    return (keys <= threshold) & (keys < 2.0)


def check_inputs(history: ItemLists, targets: ItemLists, item_count: int, ks: Sequence[int]) -> None:
    """Refuse what would give a wrong figure silently.

    Raises:
        MmfedError: different users, items outside the catalogue, or a k below 1.
    """
    if history.user_count != targets.user_count:
        raise MmfedError(
            ExitCode.FAULT,
            f"history holds {history.user_count} users and targets {targets.user_count}.",
            "pass two parts of one split; they keep the same users in the same order.",
        )
    for name, lists in (("history", history), ("targets", targets)):
        items = np.asarray(lists.items)
        if len(items) and (int(items.min()) < 0 or int(items.max()) >= item_count):
            raise MmfedError(
                ExitCode.FAULT,
                f"{name} names item {int(items.min())}..{int(items.max())} but the catalogue has {item_count} items.",
                "build the interactions against this catalogue.",
            )
    if not ks or min(ks) < 1:
        raise MmfedError(ExitCode.CONFIG, f"evaluation.k: {tuple(ks)} is not valid.", "give list lengths of 1 or more.")
