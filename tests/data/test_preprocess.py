"""Cleaning and scaling, and that every change is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmfed.data.preprocess import (
    clean,
    clip_price_outliers,
    price_outliers,
    standardise,
    standardised_numbers,
    without_repeats,
)
from mmfed.data.schema import Catalogue, Shop, group_by_user
from mmfed.errors import ExitCode, MmfedError

NAN = float("nan")


def catalogue(prices: list[float]) -> Catalogue:
    none = (None,) * len(prices)
    return Catalogue(tuple(f"i{i}" for i in range(len(prices))), none, none, none, np.array(prices, dtype=np.float32))


def shop(rows: list[tuple[int, int, int, float]], prices: list[float] | None = None) -> Shop:
    """Rows of (user, item, time, value)."""
    users, items, times, values = (np.array(column) for column in zip(*rows, strict=True))
    public = catalogue(prices or [NAN] * 4)
    interactions = group_by_user(
        user_ids=["a", "b", "c"], users=users, items=items, times=times, actions=np.zeros(len(rows)), values=values,
        item_count=public.size,
    )  # fmt: skip
    return Shop("test", public, interactions)


ROWS = [(0, 1, 10, 5.0), (0, 2, 20, 1.0), (0, 1, 30, 3.0), (2, 1, 5, NAN), (2, 1, 5, 4.0)]


@pytest.mark.parametrize(
    ("repeats", "times", "values"),
    [
        ("first", [10, 20, 5], [5, 1, NAN]),
        ("last", [20, 30, 5], [1, 3, 4]),
        ("all", [10, 20, 30, 5, 5], [5, 1, 3, NAN, 4]),
    ],
)
def test_repeats_of_an_item_are_thinned_per_user(repeats: str, times: list[int], values: list[float]) -> None:
    cleaned = clean(shop(ROWS), repeats=repeats, minimum_value=None)  # type: ignore[arg-type]
    assert cleaned.interactions.times.tolist() == times
    np.testing.assert_array_equal(cleaned.interactions.values, np.array(values, dtype=np.float32))
    assert any("repeats" in note and note.startswith("2 ") for note in cleaned.notes) == (repeats != "all")


def test_low_values_go_before_repeats_are_thinned() -> None:
    cleaned = clean(shop([(0, 1, 1, 1.0), (0, 1, 2, 5.0), (0, 2, 3, NAN)]), repeats="first", minimum_value=3)
    assert cleaned.interactions.times.tolist() == [2, 3]  # the low first rating does not shadow the high one
    assert "1 interactions valued below 3 were dropped" in cleaned.notes


def test_users_without_rows_are_left_out_and_counted() -> None:
    cleaned = clean(shop(ROWS), repeats="first", minimum_value=None)
    assert cleaned.interactions.user_ids == ["a", "c"]
    assert "1 users without interactions were left out" in cleaned.notes


def test_a_given_split_stays_aligned() -> None:
    given = replace(shop(ROWS), parts=np.array([0, 0, 1, 1, 2], dtype=np.int8))
    cleaned = clean(given, repeats="last", minimum_value=2)
    assert cleaned.interactions.times.tolist() == [30, 5]
    assert cleaned.parts is not None
    assert cleaned.parts.tolist() == [1, 2]


def test_nothing_left_is_a_fault() -> None:
    with pytest.raises(MmfedError, match="no interactions are left") as caught:
        clean(shop([(0, 1, 1, 1.0)]), repeats="all", minimum_value=2)
    assert caught.value.code is ExitCode.DATA


def test_a_clean_shop_is_left_alone() -> None:
    before = shop([(u, u, 1, NAN) for u in range(3)])
    after = clean(before, repeats="first", minimum_value=None)
    assert after.notes == ()
    assert after.catalogue is before.catalogue


def test_repeats_are_found_with_many_items() -> None:
    rows = shop([(0, 3, 1, 1.0), (1, 3, 1, 1.0)]).interactions
    huge = replace(rows, item_count=2**31 - 1)  # user * item_count must not wrap around in 32 bits
    assert without_repeats(huge, "first").all()


def test_absurd_prices_are_clipped_and_named_plausible_ones_kept() -> None:
    generator = np.random.default_rng(0)
    prices = np.exp(generator.normal(3, 0.7, 500)).tolist()
    clipped, notes = clip_price_outliers(catalogue([*prices, 1e9, NAN]))
    np.testing.assert_allclose(clipped.prices[:500], prices, rtol=1e-6)
    assert max(prices) < clipped.prices[500] < 1e9
    assert np.isnan(clipped.prices[501])
    assert len(notes) == 1
    assert "i500" in notes[0]
    assert clipped.prices.dtype == np.float32


@pytest.mark.parametrize("prices", [[], [5.0], [NAN] * 9, [5.0] * 9, [5.0] * 9 + [6.0]])
def test_prices_without_spread_have_no_outliers(prices: list[float]) -> None:
    assert not price_outliers(np.array(prices, dtype=np.float32))[0].any()


def test_standardising_centres_the_known_and_masks_the_missing() -> None:
    column = standardise(np.array([1.0, 3.0, NAN, 5.0], dtype=np.float32))
    assert column.present.tolist() == [True, True, False, True]
    np.testing.assert_allclose(column.values, [-1.2247449, 0, 0, 1.2247449], rtol=1e-6)
    assert (column.mean, round(column.scale, 4)) == (3.0, 1.633)


def test_standardising_takes_the_logarithm_of_prices() -> None:
    numbers = standardised_numbers(
        replace(catalogue([0.0, NAN, 99.0]), numeric={"size": np.array([1, 2, 3], dtype=np.float32)})
    )
    assert list(numbers) == ["size", "price"]
    np.testing.assert_allclose(numbers["price"].mean, np.log(100) / 2, rtol=1e-6)
    np.testing.assert_allclose(numbers["price"].values, [-1, 0, 1], rtol=1e-6)


@pytest.mark.parametrize("column", [[7.0, 7.0, 7.0], [0.1] * 1000, [NAN, NAN], []])
def test_a_column_that_never_changes_becomes_zeros(column: list[float]) -> None:
    assert not standardise(np.array(column, dtype=np.float32)).values.any()


def test_an_absent_price_is_no_column() -> None:
    assert standardised_numbers(catalogue([NAN, NAN])) == {}
