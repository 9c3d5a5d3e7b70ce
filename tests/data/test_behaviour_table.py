"""Features and labels of the next action: what they are, and that nothing of the target or the future is in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmfed.data.behaviour import SESSION_GAP, behaviour_table, one_hot
from mmfed.data.demo import load_demo
from mmfed.data.schema import Action, Catalogue, Categorical, Interactions, Tags, group_by_user
from mmfed.errors import ExitCode, MmfedError

VIEW, CART, BUY = Action.VIEW, Action.CART, Action.BUY


def catalogue(prices: list[float], category: Categorical | Tags | None = None) -> Catalogue:
    size = len(prices)
    return Catalogue(
        item_ids=tuple(f"i{item}" for item in range(size)),
        titles=(None,) * size,
        texts=(None,) * size,
        images=(None,) * size,
        prices=np.array(prices, dtype=np.float32),
        category=category,
    )


def history(rows: list[tuple[int, int, int, int]], *, users: int, items: int) -> Interactions:
    """(user, item, time, action)."""
    who, what, when, how = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return group_by_user(
        user_ids=[f"u{user}" for user in range(users)],
        users=who,
        items=what,
        times=when,
        actions=how,
        values=np.full(len(who), np.nan),
        item_count=items,
    )


SHOP = catalogue([10.0, 20.0, float("nan")], Categorical(np.array([0, 1, 0], dtype=np.int32), ("tops", "shoes")))
ROWS = history(
    [
        (0, 0, 0, VIEW),
        (0, 0, 10, CART),
        (0, 1, 10 + SESSION_GAP + 1, VIEW),
        (0, 2, 20 + SESSION_GAP + 1, BUY),
        (1, 1, 5, VIEW),
        (2, 2, 0, CART),
        (2, 2, 7, BUY),
    ],
    users=4,
    items=3,
)


def column(table, name: str) -> list[float]:
    return table.values[:, table.names.index(name)].tolist()


def test_a_row_for_every_interaction_with_one_before_it() -> None:
    table = behaviour_table(ROWS, SHOP)
    assert table.classes == (VIEW, CART, BUY)
    assert [table.classes[label] for label in table.labels] == [CART, VIEW, BUY, BUY]
    assert table.groups.tolist() == [0, 0, 0, 2]
    assert table.places.tolist() == [1, 2, 3, 6]


def test_columns_by_hand() -> None:
    table = behaviour_table(ROWS, SHOP, popularity=np.array([2, 0, 5]))
    none = len(Action)
    assert column(table, "action 1 back") == [VIEW, CART, VIEW, CART]
    assert column(table, "action 2 back") == [none, VIEW, CART, none]
    assert column(table, "action 3 back") == [none, none, VIEW, none]
    assert column(table, "log seconds since the event before") == pytest.approx(
        np.log1p([0, 10, SESSION_GAP + 1, 0]).tolist()
    )
    assert column(table, "events this session") == pytest.approx(np.log1p([1, 2, 1, 1]).tolist())
    assert column(table, "open carts this session") == [0, 1, 0, 1]
    assert column(table, "log views so far") == pytest.approx(np.log1p([1, 1, 2, 0]).tolist())
    assert column(table, "log times on this item before") == pytest.approx(np.log1p([0, 1, 0, 0]).tolist())
    assert column(table, "share of the category before") == pytest.approx([0, 1, 0, 0])
    assert column(table, "log popularity of the item") == pytest.approx(np.log1p([2, 2, 0, 5]).tolist())
    assert column(table, "price known") == [1, 1, 1, 0]
    assert column(table, "log price") == pytest.approx(np.log1p([10, 10, 20, 0]).tolist())
    mean = np.log1p([10, 10, 20]).mean()
    assert column(table, "log price against the person's mean") == pytest.approx([0, 0, np.log1p(20) - mean, 0])


def test_nothing_of_the_target_or_later_is_in_a_row() -> None:
    shop = load_demo(40, 0)
    rows = shop.interactions
    table = behaviour_table(rows, shop.catalogue)
    for row in (0, len(table) // 2, len(table) - 1):
        user, place = int(table.groups[row]), int(table.places[row])
        after = (np.arange(len(rows)) >= place) & (rows.user_of_row() == user)
        changed = replace(
            rows,
            items=np.where(after, (rows.items + 7) % shop.catalogue.size, rows.items).astype(np.int32),
            times=np.where(after, rows.times + 99_999, rows.times),
            actions=np.where(after, BUY, rows.actions).astype(np.int8),
        )
        other = behaviour_table(changed, shop.catalogue)
        same = np.flatnonzero(other.places == place)[0]
        assert np.array_equal(other.values[same], table.values[row])


def test_a_person_s_rows_depend_on_nobody_else() -> None:
    shop = load_demo(40, 0)
    table = behaviour_table(shop.interactions, shop.catalogue)
    alone = behaviour_table(shop.interactions.keep_users(np.array([17])), shop.catalogue)
    assert np.array_equal(alone.values, table.values[table.groups == 17])


def test_one_hot_spreads_categories_only() -> None:
    values = np.array([[0.5, 2.0], [-1.0, 0.0]])
    assert one_hot(values, np.array([0, 3])).tolist() == [[0.5, 0, 0, 1], [-1.0, 1, 0, 0]]


@pytest.mark.parametrize(
    "category",
    [None, Tags(np.zeros((3, 0), dtype=bool), ()), Tags(np.eye(3, 2, dtype=bool), ("a", "b"))],
)
def test_any_kind_of_category_gives_finite_columns(category: Tags | None) -> None:
    table = behaviour_table(ROWS, replace(SHOP, category=category, prices=np.full(3, np.nan, dtype=np.float32)))
    assert np.isfinite(table.values).all()


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (history([], users=0, items=3), "nobody has two interactions"),
        (history([(0, 0, 0, VIEW), (1, 0, 0, BUY)], users=2, items=3), "nobody has two interactions"),
        (history([(0, 0, 0, BUY), (0, 1, 1, VIEW), (0, 2, 2, VIEW)], users=1, items=3), "is 'view'"),
    ],
)
def test_nothing_to_predict_is_refused(rows: Interactions, says: str) -> None:
    with pytest.raises(MmfedError, match=says) as caught:
        behaviour_table(rows, SHOP)
    assert caught.value.code is ExitCode.DATA
