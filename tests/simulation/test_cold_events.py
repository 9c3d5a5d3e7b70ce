"""Events of cold items and new users: nothing looks ahead, ranks are pessimistic."""

from __future__ import annotations

import numpy as np
import pytest

from mmfed.data.schema import Interactions, group_by_user
from mmfed.errors import MmfedError
from mmfed.evaluation.accuracy import UNRANKED
from mmfed.simulation import cold_events
from mmfed.simulation.cold_baselines import nearest_content
from mmfed.simulation.cold_events import cold_item_events, event_ranks, first_rows, last_item_events, user_means

COLD = np.array([False, False, False, True, True, True])
EVERYTHING = np.ones(6, dtype=bool)


def interactions_of(*histories: list[int]) -> Interactions:
    users = np.repeat(np.arange(len(histories)), [len(one) for one in histories])
    rows = len(users)
    return group_by_user(
        user_ids=[f"u{i}" for i in range(len(histories))],
        users=users,
        items=np.array([item for one in histories for item in one]),
        times=np.arange(rows),
        actions=np.zeros(rows, dtype=np.int8),
        values=np.full(rows, np.nan),
        item_count=6,
    )


def lists(interactions: Interactions) -> list[list[int]]:
    return [interactions.items[interactions.rows(row)].tolist() for row in range(interactions.user_count)]


def test_an_event_knows_the_warm_rows_before_it_and_nothing_later() -> None:
    shop = interactions_of([0, 3, 1, 4, 2], [4, 0], [1, 2])
    events = cold_item_events(shop, COLD, np.arange(3))
    assert events.users.tolist() == [0, 0, 1]
    assert events.items.tolist() == [3, 4, 4]
    assert lists(first_rows(events.source, events.users, events.history)) == [[0], [0, 1], []]
    assert lists(first_rows(events.touched, events.users, events.known)) == [[0], [0, 3, 1], []]


def test_only_first_touches_of_the_chosen_users_count() -> None:
    shop = interactions_of([3, 0, 3, 3], [3, 5])
    events = cold_item_events(shop, COLD, np.array([0]))
    assert (events.users.tolist(), events.items.tolist(), events.known.tolist()) == ([0], [3], [0])


def test_ranks_are_among_candidates_without_what_is_known() -> None:
    shop = interactions_of([0, 3, 4])
    events = cold_item_events(shop, COLD, np.arange(1))
    scores = np.array([9.0, 8.0, 0.0, 5.0, 4.0, 7.0])

    def fixed(history: Interactions, users: np.ndarray) -> np.ndarray:
        return np.tile(scores, (len(users), 1))

    assert event_ranks(events, fixed, COLD).tolist() == [2, 2]  # item 5 is above both; item 3 is known by then
    assert event_ranks(events, fixed, EVERYTHING).tolist() == [3, 3]  # item 0 is known, 1 and 5 are above


def test_ties_stand_before_the_item_and_what_cannot_be_recommended_has_no_rank() -> None:
    events = cold_item_events(interactions_of([0, 3]), COLD, np.arange(1))
    assert event_ranks(events, lambda _, users: np.zeros((len(users), 6)), COLD).tolist() == [3]
    never = np.array([[0.0, 0, 0, -np.inf, 0, 0]])
    assert event_ranks(events, lambda *_: never, COLD).tolist() == [UNRANKED]
    with pytest.raises(MmfedError, match="NaN"):
        event_ranks(events, lambda *_: np.full((1, 6), np.nan), COLD)


def test_blocks_do_not_change_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    shop = interactions_of(*(generator.permutation(6).tolist() for _ in range(9)))
    events = cold_item_events(shop, COLD, np.arange(9))
    content = generator.normal(size=(6, 3))

    def nearest(history: Interactions, users: np.ndarray) -> np.ndarray:
        return nearest_content(content, history)

    whole = event_ranks(events, nearest, COLD)
    monkeypatch.setattr(cold_events, "BLOCK", 4)
    assert event_ranks(events, nearest, COLD).tolist() == whole.tolist()


def test_new_users_are_told_from_their_first_rows() -> None:
    shop = interactions_of([0, 1, 2, 3], [4], [5, 0])
    some = last_item_events(shop, np.arange(3), 2)
    assert some.users.tolist() == [0, 2]  # one row alone has nothing before the last
    assert some.items.tolist() == [3, 0]
    assert lists(first_rows(some.source, some.users, some.history)) == [[0, 1], [5]]
    assert lists(first_rows(some.touched, some.users, some.known)) == [[0, 1, 2], [5]]
    assert last_item_events(shop, np.arange(3)).history.tolist() == [3, 1]


def test_no_events_give_no_ranks() -> None:
    events = cold_item_events(interactions_of([0, 1]), COLD, np.arange(1))
    assert len(event_ranks(events, lambda *_: np.zeros((0, 6)), COLD)) == 0


def test_user_means_weigh_users_alike() -> None:
    assert user_means(np.array([1.0, 0.0, 1.0]), np.array([7, 7, 2])).tolist() == [1.0, 0.5]


def test_nearest_content_prefers_what_came_last() -> None:
    content = np.array([[1.0, 0], [0, 1], [1, 0.1], [0.1, 1], [0, 0], [1, 1]])
    scores = nearest_content(content, interactions_of([0, 1], [1, 0]))
    assert scores[0, 3] > scores[0, 2]
    assert scores[1, 2] > scores[1, 3]
    assert not scores[:, 4].any()


def test_events_that_do_not_count_are_left_out_of_a_users_mean():
    values = np.array([1.0, np.nan, 0.0, np.nan, 1.0])
    means = user_means(values, np.array([4, 4, 4, 7, 9]))
    np.testing.assert_array_equal(means, [0.5, np.nan, 1.0])
