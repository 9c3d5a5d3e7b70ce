"""Single recommendations for people and items that training never met: what was known just before, and the rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from mmfed.data.schema import Interactions
from mmfed.evaluation.accuracy import UNRANKED
from mmfed.evaluation.protocol import flatten, score_block
from mmfed.types import BoolArray, FloatArray, IntArray

EventScores = Callable[[Interactions, IntArray], FloatArray]
"""Maps histories (one row range per event) and the events' users [events] to scores [events, items]."""

BLOCK = 2048


@dataclass(frozen=True, eq=False)
class Events:
    """Recommendations to be made, one per entry.

    Attributes:
        users: [events] user index.
        items: [events] what the user took.
        source: where histories are read; ``history`` [events] counts the user's first rows of it.
        touched: the same for what is taken off the list, ``known`` [events] rows of it.
    """

    users: IntArray
    items: IntArray
    source: Interactions
    history: IntArray
    touched: Interactions
    known: IntArray

    def __len__(self) -> int:
        return len(self.users)

    def part(self, chosen: slice) -> Events:
        """Some of the events."""
        return replace(
            self,
            users=self.users[chosen],
            items=self.items[chosen],
            history=self.history[chosen],
            known=self.known[chosen],
        )


def cold_item_events(interactions: Interactions, cold: BoolArray, users: IntArray) -> Events:
    """Every first touch of a cold item by one of ``users``; the history is the user's warm rows before it in time.

    Nothing looks ahead: neither history nor exclusions hold a later row. Ties in time keep input order.
    """
    is_cold = cold[interactions.items]
    owners = interactions.user_of_row()
    place = np.arange(len(interactions)) - np.repeat(interactions.indptr[:-1], interactions.lengths)
    warm_before = np.concatenate([[0], np.cumsum(~is_cold)])
    cells = owners * interactions.item_count + interactions.items
    first = np.zeros(len(interactions), dtype=bool)
    first[np.unique(cells, return_index=True)[1]] = True
    rows = np.flatnonzero(is_cold & first & np.isin(owners, users))
    starts = interactions.indptr[:-1][owners[rows]]
    return Events(
        users=owners[rows],
        items=interactions.items[rows].astype(np.int64),
        source=interactions.keep_rows(~is_cold),
        history=warm_before[rows] - warm_before[starts],
        touched=interactions,
        known=place[rows],
    )


def last_item_events(interactions: Interactions, users: IntArray, first: int | None = None) -> Events:
    """The last row of every one of ``users`` with two rows or more, told from the rows before it.

    Args:
        first: only this many of the earliest rows are the history; None takes all before the last. What is taken off
            the list is the same for all: everything before the last row.
    """
    users = users[interactions.lengths[users] >= 2]
    before = interactions.lengths[users] - 1
    return Events(
        users=users,
        items=interactions.items[interactions.indptr[users + 1] - 1].astype(np.int64),
        source=interactions,
        history=before if first is None else np.minimum(before, first),
        touched=interactions,
        known=before,
    )


def event_ranks(events: Events, score: EventScores, candidates: BoolArray) -> IntArray:
    """[events] pessimistic rank of each event's item among ``candidates`` [items], known items taken off the list.

    Raises:
        MmfedError: NaN scores.
    """
    return np.concatenate([np.zeros(0, dtype=np.int64), *(_ranks(part, score, candidates) for part in _blocks(events))])


def user_means(values: FloatArray, users: IntArray) -> FloatArray:
    """[distinct users] the mean of the values [events] of each user, in user order; NaN values do not count."""
    distinct, owner = np.unique(users, return_inverse=True)
    known = ~np.isnan(values)
    total = np.bincount(owner[known], weights=values[known], minlength=len(distinct))
    count = np.bincount(owner[known], minlength=len(distinct))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def first_rows(interactions: Interactions, users: IntArray, counts: IntArray) -> Interactions:
    """One row range per entry: the first ``counts`` [n] rows of ``users`` [n]; a user may come several times."""
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    rows = np.arange(int(indptr[-1])) + np.repeat(interactions.indptr[:-1][users] - indptr[:-1], counts)
    return replace(
        interactions,
        user_ids=[str(interactions.user_ids[int(user)]) for user in users],
        indptr=indptr,
        items=interactions.items[rows],
        times=interactions.times[rows],
        actions=interactions.actions[rows],
        values=interactions.values[rows],
    )


def _blocks(events: Events) -> Iterator[Events]:
    for start in range(0, len(events), BLOCK):
        yield events.part(slice(start, start + BLOCK))


def _ranks(events: Events, score: EventScores, candidates: BoolArray) -> IntArray:
    numbers = np.arange(len(events))
    history = first_rows(events.source, events.users, events.history)
    scores = score_block(lambda _: score(history, events.users), events.users, len(candidates))
    own = scores[numbers, events.items].copy()
    scores[flatten(first_rows(events.touched, events.users, events.known), numbers)] = -np.inf
    scores[numbers, events.items] = -np.inf
    ranks = 1 + np.count_nonzero(scores[:, candidates] >= own[:, None], axis=1).astype(np.int64)
    return np.where(np.isneginf(own), UNRANKED, ranks)
