"""Interactions as a classification problem: what will this person do next?

Every interaction but a person's first one is a target, described by nothing but that person's earlier interactions and
the public catalogue. The item and the time of the target itself are left out: they give the answer away (a second event
on the item just seen is a cart or a purchase).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfed.data.schema import Action, Catalogue, Categorical, Interactions
from mmfed.errors import ExitCode, MmfedError
from mmfed.types import BoolArray, FloatArray, IntArray

SESSION_GAP = 1800  # seconds without an event that end a session
LAGS = 3  # last actions that are told one by one
_SECONDS_PER_HOUR, _HOURS = 3600, 24


@dataclass(frozen=True, eq=False)
class BehaviourTable:
    """A row per target, ordered by user and time.

    Attributes:
        values: [rows, columns] float64, finite; a categorical column holds whole numbers from 0 to its levels - 1.
        names: [columns].
        levels: [columns] number of categories, 0 for a numeric column.
        labels: [rows] index into ``classes``: the action of the target.
        classes: the actions that occur among the targets, ascending.
        groups: [rows] user index of each row, ascending.
        places: [rows] the target's row in the interactions.
    """

    values: FloatArray
    names: tuple[str, ...]
    levels: IntArray
    labels: IntArray
    classes: tuple[Action, ...]
    groups: IntArray
    places: IntArray

    def __len__(self) -> int:
        return len(self.labels)

    def keep(self, rows: BoolArray) -> BehaviourTable:
        """Only the rows where ``rows`` [rows] is true."""
        return BehaviourTable(
            self.values[rows],
            self.names,
            self.levels,
            self.labels[rows],
            self.classes,
            self.groups[rows],
            self.places[rows],
        )


def behaviour_table(
    interactions: Interactions, catalogue: Catalogue, *, popularity: IntArray | None = None
) -> BehaviourTable:
    """Features and labels of every interaction that has one before it.

    Args:
        interactions: whole histories, repeats included (``data.repeats = "all"``): without them carts and purchases of
            an item already seen are gone.
        popularity: [items] how often each item occurs in the training part; None leaves the column 0. It is a statistic
            of everybody's private data: a deployment with a privacy promise has to charge it or do without.

    Raises:
        MmfedError: fewer than two interactions for everybody, or only one kind of action among the targets.
    """
    rows = np.arange(len(interactions), dtype=np.int64)
    starts = np.repeat(interactions.indptr[:-1], interactions.lengths)
    places = rows[rows > starts]
    if not len(places):
        raise MmfedError(
            ExitCode.DATA,
            "nobody has two interactions: there is no next action to predict.",
            "give a shop with longer histories.",
        )
    actions = interactions.actions.astype(np.int64)
    present = np.unique(actions[places])
    if len(present) < 2:
        raise MmfedError(
            ExitCode.DATA,
            f"every next action is '{Action(int(present[0])).name.lower()}': there is nothing to tell apart.",
            "give interactions with several actions (view, cart, buy), repeats on the same item included.",
        )
    columns = _columns(interactions, catalogue, starts, popularity)
    last = places - 1
    values = np.stack([values for values, _ in columns.values()], axis=1)[last]
    return BehaviourTable(
        values=np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0),
        names=tuple(columns),
        levels=np.array([levels for _, levels in columns.values()], dtype=np.int64),
        labels=np.searchsorted(present, actions[places]),
        classes=tuple(Action(int(code)) for code in present),
        groups=interactions.user_of_row()[places],
        places=places,
    )


def one_hot(values: FloatArray, levels: IntArray) -> FloatArray:
    """Categorical columns spread out, one column per category, after the numeric ones: [rows, wide] float64."""
    numeric = [values[:, levels == 0]]
    spread = [
        (values[:, column, None] == np.arange(levels[column])).astype(np.float64) for column in np.flatnonzero(levels)
    ]
    return np.concatenate([*numeric, *spread], axis=1)


def _columns(
    interactions: Interactions, catalogue: Catalogue, starts: IntArray, popularity: IntArray | None
) -> dict[str, tuple[FloatArray, int]]:
    """What is known at each row, the row itself included: name -> ([interactions], levels)."""
    rows = np.arange(len(interactions), dtype=np.int64)
    users, items = interactions.user_of_row(), interactions.items.astype(np.int64)
    actions, times = interactions.actions.astype(np.int64), interactions.times
    columns: dict[str, tuple[FloatArray, int]] = {}
    nothing = len(Action)
    for lag in range(LAGS):
        earlier = rows - lag
        code = np.where(earlier >= starts, actions[np.maximum(earlier, 0)], nothing)
        columns[f"action {lag + 1} back"] = (code.astype(np.float64), nothing + 1)
    new_user = rows == starts
    gap = np.where(new_user, 0, np.diff(times, prepend=times[:1]))
    begins = new_user | (gap > SESSION_GAP)
    session_start = np.maximum.accumulate(np.where(begins, rows, 0))
    in_session = {action: _count_since(actions == action, session_start) for action in (Action.CART, Action.BUY)}
    columns["log seconds since the event before"] = (np.log1p(np.maximum(gap, 0)), 0)
    columns["events this session"] = (np.log1p(rows - session_start + 1), 0)
    columns["carts this session"] = (in_session[Action.CART], 0)
    columns["purchases this session"] = (in_session[Action.BUY], 0)
    columns["open carts this session"] = (np.maximum(in_session[Action.CART] - in_session[Action.BUY], 0), 0)
    for action in Action:
        columns[f"log {action.name.lower()}s so far"] = (np.log1p(_count_since(actions == action, starts)), 0)
    angle = 2 * np.pi * (times % (_HOURS * _SECONDS_PER_HOUR)) / (_HOURS * _SECONDS_PER_HOUR)
    columns["hour (sine)"], columns["hour (cosine)"] = (np.sin(angle), 0), (np.cos(angle), 0)
    columns["log times on this item before"] = (np.log1p(_earlier_with(users * interactions.item_count + items)), 0)
    category = _category(catalogue)[items]
    seen = _earlier_with(users * (int(category.max(initial=0)) + 2) + category + 1)
    share = np.where(category >= 0, seen / np.maximum(rows - starts, 1), 0.0)
    columns["share of the category before"] = (share, 0)
    counts = np.zeros(interactions.item_count) if popularity is None else np.asarray(popularity, dtype=np.float64)
    columns["log popularity of the item"] = (np.log1p(counts)[items], 0)
    columns |= _price_columns(catalogue, items, starts)
    return columns


def _price_columns(catalogue: Catalogue, items: IntArray, starts: IntArray) -> dict[str, tuple[FloatArray, int]]:
    """Price of the item, and against the mean of the person's prices so far (log scale)."""
    prices = np.asarray(catalogue.prices, dtype=np.float64)[items]
    known = np.isfinite(prices) & (prices >= 0)
    # On a grid of 2 ** -20 running sums are exact: no rounding carries one person's prices into another's rows.
    logs = np.rint(np.log1p(np.where(known, prices, 0.0)) * 2.0**20) / 2.0**20
    mean = _count_since(logs, starts) / np.maximum(_count_since(known, starts), 1)
    return {
        "price known": (known.astype(np.float64), 0),
        "log price": (logs, 0),
        "log price against the person's mean": (np.where(known, logs - mean, 0.0), 0),
    }


def _category(catalogue: Catalogue) -> IntArray:
    """[items] one category per item, -1 where unknown; of several tags the first."""
    if isinstance(catalogue.category, Categorical):
        return catalogue.category.codes.astype(np.int64)
    if catalogue.category is None or not catalogue.category.matrix.shape[1]:
        return np.full(catalogue.size, -1, dtype=np.int64)
    matrix = catalogue.category.matrix
    return np.where(matrix.any(axis=1), matrix.argmax(axis=1), -1)


def _count_since(values: np.ndarray, starts: IntArray) -> FloatArray:
    """[rows] sum of ``values`` from row ``starts[row]`` to the row itself, both included."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])
    return sums[1:] - sums[starts]


def _earlier_with(keys: IntArray) -> FloatArray:
    """[rows] how many earlier rows have the same key."""
    order = np.argsort(keys, kind="stable")
    arranged = keys[order]
    begins = np.concatenate([[True], arranged[1:] != arranged[:-1]]) if len(keys) else np.zeros(0, dtype=bool)
    places = np.arange(len(keys))
    counts = np.empty(len(keys), dtype=np.float64)
    counts[order] = places - np.maximum.accumulate(np.where(begins, places, 0))
    return counts
