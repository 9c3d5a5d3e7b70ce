"""Own content among the interactions: order, no look-ahead, nothing lost."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.data.own_content import NO_ITEM, own_content
from mmfed.data.schema import Features, Interactions, group_by_user
from mmfed.encoders.own import OwnFeatures
from mmfed.models.own_events import own_events, timelines

FOREVER = np.iinfo(np.int64).max
Rows = list[tuple[int, int]]


def interactions_of(rows: Rows, users: int) -> Interactions:
    """(user, time) pairs; the item is the place in the list."""
    count = len(rows)
    return group_by_user(
        user_ids=[f"u{user}" for user in range(users)],
        users=np.array([user for user, _ in rows], dtype=np.int64),
        items=np.arange(count),
        times=np.array([time for _, time in rows], dtype=np.int64),
        actions=np.zeros(count, dtype=np.int64),
        values=np.full(count, 3.0),
        item_count=max(count, 1),
    )


def features_of(rows: Rows, users: int, present: list[bool] | None = None) -> OwnFeatures:
    """(user, time) pairs; the value is the time."""
    count = len(rows)
    content = own_content(
        user_ids=[f"u{user}" for user in range(users)],
        users=np.array([user for user, _ in rows], dtype=np.int64),
        times=np.array([time for _, time in rows], dtype=np.int64),
        items=np.full(count, NO_ITEM),
        contents={"text": ["words"] * count},
    )
    values = content.times[:, None].astype(np.float32)
    there = np.ones(count, dtype=bool) if present is None else np.array(present)
    return OwnFeatures(content, {"text": Features(values, there)})


def everything(users: int) -> np.ndarray:
    return np.full(users, FOREVER)


def test_content_counts_for_what_is_later_than_it_and_an_interaction_at_the_same_time_comes_first() -> None:
    found = timelines(
        interactions_of([(0, 10), (0, 20), (0, 20)], 2),
        features_of([(0, 9), (0, 20), (0, 15), (1, 5)], 2),
        everything(2),
        ["text"],
    )
    assert found.indptr.tolist() == [0, 6, 7]
    assert found.items.tolist() == [-1, 0, -1, 1, 2, -1, -1]
    assert found.rows.tolist() == [0, -1, 1, -1, -1, 2, 3]
    assert np.isnan(found.values[found.rows >= 0]).all()
    assert (found.actions[found.rows >= 0] == -1).all()


def test_nothing_from_the_bound_on_is_seen() -> None:
    features = features_of([(0, 9), (0, 10), (0, 11), (1, 10)], 2)
    found = timelines(interactions_of([(0, 1)], 2), features, np.array([10, FOREVER]), ["text"])
    assert found.rows.tolist() == [-1, 0, 3]


def test_content_that_the_model_cannot_read_takes_no_place() -> None:
    history = interactions_of([(0, 1)], 1)
    unread = timelines(history, features_of([(0, 2), (0, 3)], 1, [False, True]), everything(1), ["text"])
    assert unread.rows.tolist() == [-1, 1]
    other = timelines(history, features_of([(0, 2)], 1), everything(1), ["image"])
    assert other.rows.tolist() == [-1]


pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), max_size=12)


@settings(max_examples=100, deadline=None)
@given(did=pairs, wrote=pairs.filter(bool), bounds=st.lists(st.integers(0, 7), min_size=4, max_size=4))
def test_any_order(did: Rows, wrote: Rows, bounds: list[int]) -> None:
    history, features = interactions_of(did, 4), features_of(wrote, 4)
    found = timelines(history, features, np.array(bounds), ["text"])
    for user in range(4):
        rows = slice(int(found.indptr[user]), int(found.indptr[user + 1]))
        items, own = found.items[rows], found.rows[rows]
        assert items[items >= 0].tolist() == history.items[history.rows(user)].tolist()
        times = features.content.times[own[own >= 0]]
        assert sorted(t for u, t in wrote if u == user and t < bounds[user]) == times.tolist()
        for place in np.flatnonzero(own >= 0):
            time = features.content.times[own[place]]
            earlier = history.times[history.rows(user)] <= time
            assert (items[:place] >= 0).sum() == earlier.sum()


def test_a_batch_holds_values_and_slots_and_at_least_one_place() -> None:
    features = features_of([(0, 7), (0, 8), (1, 9)], 3)
    rows = np.array([[-1, 0, -1, 1], [2, -1, -1, -1], [-1, -1, -1, -1]])
    found = own_events(rows, features, torch.float64)
    assert found.known.tolist() == [[1, 1], [1, 0], [0, 0]]
    assert found.slots[0].tolist() == [1, 3]
    assert found.slots[1, 0] == 0
    assert found.values["text"][..., 0].tolist() == [[7, 8], [9, 0], [0, 0]]
    assert found.present["text"].tolist() == [[1, 1], [1, 0], [0, 0]]
    assert all(len(set(slots)) == 2 for slots in found.slots.tolist())
    none = own_events(np.full((2, 3), -1), features, torch.float32)
    assert none.known.tolist() == [[0], [0]]
