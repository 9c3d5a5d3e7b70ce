"""Splits lose nothing, respect time, and decide each user alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.config import SplitSection
from mmfed.data.schema import Catalogue, Interactions, Shop, Split, group_by_user
from mmfed.data.split import cut, held_out, split_shop
from mmfed.errors import ExitCode, MmfedError

KINDS = ("leave-last-out", "ratio", "global-time")


def section(**values: object) -> SplitSection:
    return SplitSection.model_validate(values)


def sold_twice(histories: list[list[int]], items: int) -> Shop:
    """``shop_of`` with only ``items`` items, taken round and round."""
    shop = shop_of(histories)
    rows = replace(shop.interactions, items=shop.interactions.items % items, item_count=items)
    none = (None,) * items
    ids = tuple(f"item-{i}" for i in range(items))
    prices = np.full(items, np.nan, dtype=np.float32)
    return replace(shop, interactions=rows, catalogue=Catalogue(ids, none, none, none, prices))


def shop_of(histories: list[list[int]], parts: np.ndarray | None = None) -> Shop:
    """One user per list of times; every row has an item number of its own, so rows can be told apart."""
    users = np.repeat(np.arange(len(histories)), [len(h) for h in histories])
    rows = len(users)
    interactions = group_by_user(
        user_ids=[f"u{i}" for i in range(len(histories))],
        users=users,
        items=np.arange(rows),
        times=np.array([t for h in histories for t in h], dtype=np.int64),
        actions=np.zeros(rows, dtype=np.int8),
        values=np.full(rows, np.nan),
        item_count=rows,
    )
    none = (None,) * rows
    catalogue = Catalogue(tuple(str(i) for i in range(rows)), none, none, none, np.full(rows, np.nan, dtype=np.float32))
    return Shop("test", catalogue, interactions, parts=parts)


def rows_of(part: Interactions) -> list[tuple[int, int, int]]:
    return list(zip(part.user_of_row().tolist(), part.items.tolist(), part.times.tolist(), strict=True))


def items_of(part: Interactions, user: int) -> list[int]:
    return part.items[part.rows(user)].tolist()


histories = st.lists(st.lists(st.integers(0, 50), max_size=12), min_size=1, max_size=8).filter(
    lambda all_of: len({t for h in all_of for t in h}) > 1
)
shares = st.tuples(st.floats(0, 0.6), st.floats(0.01, 0.39))


@given(histories, st.sampled_from(KINDS), shares, st.integers(1, 6))
@settings(max_examples=200, deadline=None)
def test_no_row_is_lost_or_doubled_and_time_runs_forward(
    times: list[list[int]], kind: str, share: tuple[float, float], minimum: int
) -> None:
    shop = shop_of(times)
    split = split_shop(shop, section(kind=kind, validation=share[0], test=share[1], minimum_history=minimum))
    parts = (split.train, split.validation, split.test)
    assert sorted(row for part in parts for row in rows_of(part)) == sorted(rows_of(shop.interactions))
    for user in range(shop.interactions.user_count):
        # In one piece the parts are the history itself: same order, later parts later, ties by input order.
        assert [i for part in parts for i in items_of(part, user)] == items_of(shop.interactions, user)
    assert all(list(part.user_ids) == list(shop.interactions.user_ids) for part in parts)


@given(histories, st.sampled_from(KINDS[:2]), shares, st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_a_user_is_split_by_the_users_own_rows_alone(
    times: list[list[int]], kind: str, share: tuple[float, float], minimum: int
) -> None:
    chosen = section(kind=kind, validation=share[0], test=share[1], minimum_history=minimum)
    together = split_shop(shop_of(times), chosen)
    for user, history in enumerate(times):
        if not history:
            continue
        alone = split_shop(shop_of([history]), chosen)
        for one, many in (
            (alone.train, together.train),
            (alone.validation, together.validation),
            (alone.test, together.test),
        ):
            assert one.times.tolist() == many.times[many.rows(user)].tolist()


@given(histories, shares)
@settings(max_examples=100, deadline=None)
def test_global_time_has_one_cut_for_everyone(times: list[list[int]], share: tuple[float, float]) -> None:
    split = split_shop(shop_of(times), section(kind="global-time", validation=share[0], test=share[1]))
    assert len(split.test) > 0
    assert len(split.train) > 0
    later = np.concatenate([split.validation.times, split.test.times])
    assert split.train.times.max() < later.min()
    if len(split.validation):
        assert split.validation.times.max() < split.test.times.min()


def test_leave_last_out_takes_the_last_two() -> None:
    split = split_shop(shop_of([[30, 10, 20], [5, 5, 5, 5], [1, 2]]), section())
    assert [items_of(split.train, u) for u in range(3)] == [[1], [3, 4], [7, 8]]
    assert [items_of(split.validation, u) for u in range(3)] == [[2], [5], []]
    assert [items_of(split.test, u) for u in range(3)] == [[0], [6], []]  # four ties: input order
    assert "ties in time keep input order" in split.description


def test_minimum_history_keeps_short_histories_in_training() -> None:
    split = split_shop(shop_of([[1, 2, 3, 4], [1, 2, 3, 4, 5]]), section(minimum_history=5))
    assert [len(items_of(split.test, u)) for u in range(2)] == [0, 1]
    assert "fewer than 5" in split.description


def test_leave_last_out_always_leaves_a_training_row() -> None:
    split = split_shop(shop_of([[1], [1, 2], [1, 2, 3]]), section(minimum_history=1))
    assert split.train.lengths.tolist() == [1, 2, 1]


def test_ratio_takes_shares_of_each_history_and_one_row_at_least() -> None:
    split = split_shop(shop_of([list(range(20)), [1, 2, 3]]), section(kind="ratio", validation=0.2, test=0.1))
    assert split.train.lengths.tolist() == [14, 1]
    assert split.validation.lengths.tolist() == [4, 1]
    assert split.test.lengths.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("rows", "validation", "test", "sizes"),
    [(16, 0.0, 0.1, [14, 0, 2]), (16, 0.1, 0.1, [12, 2, 2]), (5, 0.0, 0.95, [1, 0, 4]), (5, 0.5, 0.45, [1, 2, 2])],
)
def test_ratio_rounds_half_up_and_leaves_a_training_row(
    rows: int, validation: float, test: float, sizes: list[int]
) -> None:
    split = split_shop(shop_of([list(range(rows))]), section(kind="ratio", validation=validation, test=test))
    assert [len(split.train), len(split.validation), len(split.test)] == sizes


def test_global_time_cuts_at_shares_of_the_span() -> None:
    split = split_shop(shop_of([[0, 7, 8], [9, 10]]), section(kind="global-time", validation=0.2, test=0.1))
    assert [part.times.tolist() for part in (split.train, split.validation, split.test)] == [[0], [7, 8], [9, 10]]


def test_ratio_without_validation() -> None:
    split = split_shop(
        shop_of([list(range(10)), [1, 2], [1]]), section(kind="ratio", validation=0, test=0.3, minimum_history=2)
    )
    assert split.train.lengths.tolist() == [7, 1, 1]
    assert len(split.validation) == 0


def test_global_time_ignores_minimum_history_and_says_so() -> None:
    split = split_shop(shop_of([[0, 50], [100]]), section(kind="global-time", minimum_history=9))
    assert split.test.lengths.tolist() == [0, 1]
    assert "minimum_history does not apply" in split.description
    assert "1970-01-01 00:01 UTC" in split.description


def test_the_given_split_is_taken_as_it_is() -> None:
    split = split_shop(shop_of([[0, 0, 0], [0, 0]], np.array([2, 0, 1, 0, 2])), section(kind="given"))
    assert [rows.items.tolist() for rows in (split.train, split.validation, split.test)] == [[1, 3], [2], [0, 4]]


@pytest.mark.parametrize(
    ("shop", "values", "code", "message"),
    [
        (shop_of([[1, 2, 3]]), {"kind": "given"}, ExitCode.CONFIG, "came without a split"),
        (shop_of([[1, 2]]), {"kind": "ratio", "validation": 0.5, "test": 0.5}, ExitCode.CONFIG, "nothing is left to"),
        (shop_of([[7, 7, 7]]), {"kind": "global-time"}, ExitCode.DATA, "all carry the same one"),
        (shop_of([[0, 0, 0]], np.array([0, 1, 2])), {}, ExitCode.CONFIG, "has no times, only a given split"),
    ],
)  # fmt: skip
def test_a_split_that_cannot_be_made_says_why(
    shop: Shop, values: dict[str, object], code: ExitCode, message: str
) -> None:
    with pytest.raises(MmfedError, match=message) as caught:
        split_shop(shop, section(**values))
    assert caught.value.code is code


@pytest.mark.parametrize("parts", [np.array([0, 1]), np.array([0, 1, 3]), np.array([0, -1, 1])])
def test_parts_must_fit_the_rows(parts: np.ndarray) -> None:
    with pytest.raises(ValueError, match="for every interaction"):
        cut(shop_of([[1, 2, 3]]).interactions, parts, "")


def test_before_test_is_train_then_validation() -> None:
    split: Split = split_shop(shop_of([[1, 2, 3, 4], [5, 6, 7]]), section())
    assert [items_of(split.before_test, u) for u in range(2)] == [[0, 1, 2], [4, 5]]


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_items_and_users_are_in_no_part(kind: str) -> None:
    shop = sold_twice([list(range(12)) for _ in range(40)], 30)
    chosen = section(kind=kind, cold_items=0.3, new_users=0.2)
    held, split = held_out(shop, chosen), split_shop(shop, chosen)
    assert 0 < held.items.sum() < 30
    assert 0 < held.users.sum() < 40
    parts = (split.train, split.validation, split.test)
    for part in parts:
        assert list(part.user_ids) == list(shop.interactions.user_ids)
        assert not held.items[part.items].any()
        assert not part.lengths[held.users].any()
    assert sum(len(part) for part in parts) == (~held.rows(shop.interactions)).sum()
    assert f"{held.items.sum()} items and {held.users.sum()} users held out" in split.description


def test_folds_are_disjoint_and_cover_everything() -> None:
    shop = sold_twice([[1, 2, 3]] * 50, 40)
    folds = [held_out(shop, section(cold_items=0.25, new_users=0.25, fold=fold)) for fold in range(4)]
    assert np.array_equal(sum(fold.items.astype(int) for fold in folds), np.ones(40))
    assert np.array_equal(sum(fold.users.astype(int) for fold in folds), np.ones(50))


def test_who_is_held_out_does_not_depend_on_the_others() -> None:
    shop = sold_twice([[1, 2, 3]] * 50, 40)
    whole = held_out(shop, section(new_users=0.5)).users
    some = np.arange(0, 50, 3)
    fewer = replace(shop, interactions=shop.interactions.keep_users(some))
    assert np.array_equal(held_out(fewer, section(new_users=0.5)).users, whole[some])


def test_a_given_split_stays_aligned_when_items_are_held_out() -> None:
    shop = replace(sold_twice([[0] * 6] * 10, 20), parts=np.arange(60) % 3)
    split = split_shop(shop, section(kind="given", cold_items=0.3))
    kept = ~held_out(shop, section(cold_items=0.3)).items[shop.interactions.items]
    for number, part in enumerate((split.train, split.validation, split.test)):
        assert part.items.tolist() == shop.interactions.items[kept & (shop.parts == number)].tolist()


def test_holding_everybody_out_says_so() -> None:
    shop = sold_twice([[1, 2, 3]], 3)
    chosen = next(
        one for one in (section(new_users=0.5, fold=fold) for fold in range(2)) if held_out(shop, one).users.all()
    )
    with pytest.raises(MmfedError, match="held-out items or users") as caught:
        split_shop(shop, chosen)
    assert caught.value.code is ExitCode.DATA


def test_a_fold_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="fold 10 does not exist"):
        section(cold_items=0.1, fold=10)
    assert section(cold_items=0.1, fold=9).fold == 9
