"""One-shot co-occurrence against loops that follow the words of its definition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import histories_from

from mmfed.training.cooccurrence import banded_cooccurrence, packed, packed_size, popularity_counts, unpacked

ITEMS = 9
SEQUENCES = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=12), max_size=6)
DECAYS = st.sampled_from([0.3, 0.9, 1.0])


def by_loop(lists: Sequence[Sequence[int]], decay: float) -> np.ndarray:
    """Every pair of the user's items, told by the latest event of each; every user scaled to norm 1."""
    total = np.zeros((ITEMS, ITEMS))
    for sequence in lists:
        latest = {item: place for place, item in enumerate(sequence)}
        pairs = {(i, j): decay ** abs(t - s) for i, t in latest.items() for j, s in latest.items()}
        norm = math.sqrt(sum(value**2 for value in pairs.values()))
        for (i, j), value in pairs.items():
            total[i, j] += value / norm
    return total


def summed(lists: Sequence[Sequence[int]], decay: float, items: int = ITEMS) -> np.ndarray:
    return banded_cooccurrence(histories_from(lists), items, decay=decay)


def test_by_hand() -> None:
    found = summed([[4, 1, 4, 2]], 0.5)  # item 4 stands at its latest place: 1, 4, 2
    norm = math.sqrt(3 + 2 * (0.5**2 + 0.5**2 + 0.25**2))
    expected = np.zeros((ITEMS, ITEMS))
    expected[[1, 4, 2], [1, 4, 2]] = 1
    expected[[1, 4, 4, 2], [4, 1, 2, 4]] = 0.5
    expected[[1, 2], [2, 1]] = 0.25
    np.testing.assert_allclose(found, expected / norm, rtol=1e-14)


def test_events_between_two_items_count_even_where_they_are_repeats() -> None:
    """The place is that of the event, so a repeat of something else keeps its neighbours apart."""
    found = summed([[0, 2, 2, 1]], 0.5)
    assert found[0, 1] / found[0, 0] == pytest.approx(0.5**3)
    assert found[2, 1] / found[0, 0] == pytest.approx(0.5)
    assert found[2, 0] / found[0, 0] == pytest.approx(0.5**2)


@settings(max_examples=80, deadline=None)
@given(lists=SEQUENCES, decay=DECAYS)
def test_against_loops(lists: list[list[int]], decay: float) -> None:
    np.testing.assert_allclose(summed(lists, decay), by_loop(lists, decay), rtol=1e-12, atol=1e-15)


@settings(max_examples=80, deadline=None)
@given(sequence=st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=40), decay=DECAYS)
def test_every_user_has_norm_one_in_the_message(sequence: list[int], decay: float) -> None:
    """Sensitivity: what one user adds has norm 1, in the matrix and in the vector that travels."""
    own = summed([sequence], decay)
    assert np.linalg.norm(own) == pytest.approx(1.0, abs=1e-12)
    assert np.linalg.norm(packed(own)) == pytest.approx(1.0, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(lists=SEQUENCES, own=st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=12), decay=DECAYS)
def test_a_user_more_or_less_moves_the_sum_by_norm_one(lists: list[list[int]], own: list[int], decay: float) -> None:
    moved = packed(summed([*lists, own], decay)) - packed(summed(lists, decay))
    assert np.linalg.norm(moved) == pytest.approx(1.0, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(lists=SEQUENCES, cut=st.integers(0, 6), seed=st.integers(0, 10**6), decay=DECAYS)
def test_neither_order_nor_partition_matters(lists: list[list[int]], cut: int, seed: int, decay: float) -> None:
    whole = summed(lists, decay)
    order = np.random.default_rng(seed).permutation(len(lists))
    np.testing.assert_allclose(summed([lists[i] for i in order], decay), whole, rtol=1e-12, atol=1e-15)
    parts = packed(summed(lists[:cut], decay)) + packed(summed(lists[cut:], decay))
    np.testing.assert_allclose(unpacked(parts, ITEMS), whole, rtol=1e-12, atol=1e-15)


def test_users_are_told_by_their_own_rows_only() -> None:
    """The last item of one user and the first of the next do not go together."""
    found = summed([[0, 1], [2, 3]], 0.9)
    assert not found[:2, 2:].any()
    assert found[0, 1] > 0
    assert found[2, 3] > 0


def test_empty_and_one_event_users() -> None:
    assert not summed([], 0.9).any()
    assert not summed([[], []], 0.9).any()
    alone = summed([[], [5], []], 0.9)
    assert alone[5, 5] == 1.0
    assert np.count_nonzero(alone) == 1
    assert summed([[5, 5, 5]], 0.9)[5, 5] == 1.0  # a repeated item is one item


def test_a_catalogue_of_one_item_or_none() -> None:
    assert summed([[0, 0], [0]], 0.9, items=1).tolist() == [[2.0]]
    assert summed([[]], 0.9, items=0).shape == (0, 0)
    assert packed(np.zeros((0, 0))).shape == (0,)
    assert unpacked(np.zeros(0), 0).shape == (0, 0)


def test_a_long_history_keeps_its_norm() -> None:
    """decay^|t − s| is far below the smallest float over ten thousand events."""
    own = summed([list(range(400)) * 25], 0.5, items=400)
    assert np.isfinite(own).all()
    assert np.linalg.norm(own) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("items", [1, 2, 7])
def test_packed_holds_the_upper_triangle_times_root_two(items: int) -> None:
    half = np.random.default_rng(items).normal(size=(items, items))
    matrix = half + half.T
    vector = packed(matrix)
    assert vector.shape == (packed_size(items),) == (items * (items + 1) // 2,)
    expected = [matrix[i, j] * (1 if i == j else math.sqrt(2)) for i in range(items) for j in range(i, items)]
    np.testing.assert_allclose(vector, expected, rtol=1e-15)
    assert np.linalg.norm(vector) == pytest.approx(np.linalg.norm(matrix), rel=1e-14)
    np.testing.assert_allclose(unpacked(vector, items), matrix, rtol=1e-15)


@settings(max_examples=60, deadline=None)
@given(lists=SEQUENCES, decay=DECAYS, covered=st.sets(st.integers(0, ITEMS - 1)))
def test_of_some_items_every_user_still_adds_norm_one(lists: list[list[int]], decay: float, covered: set[int]) -> None:
    """The others are as if the person had never touched them, but for the places in between."""
    items = np.array(sorted(covered), dtype=np.int64)
    found = banded_cooccurrence(histories_from(lists), ITEMS, decay=decay, covered=items)
    expected = np.zeros((ITEMS, ITEMS))
    for sequence in lists:
        own = by_loop([sequence], decay)[np.ix_(items, items)]
        if own.any():
            expected[np.ix_(items, items)] += own / np.linalg.norm(own)
    np.testing.assert_allclose(found, expected[np.ix_(items, items)], rtol=1e-10, atol=1e-14)
    for sequence in lists:
        own = banded_cooccurrence(histories_from([sequence]), ITEMS, decay=decay, covered=items)
        assert np.linalg.norm(packed(own)) == pytest.approx(1.0 if covered & set(sequence) else 0.0, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(lists=SEQUENCES)
def test_popularity_counts_everybody_with_norm_one(lists: list[list[int]]) -> None:
    expected = np.zeros(ITEMS)
    for sequence in lists:
        for item in set(sequence):
            expected[item] += 1 / math.sqrt(len(set(sequence)))
    np.testing.assert_allclose(popularity_counts(histories_from(lists), ITEMS), expected, rtol=1e-12)
    for sequence in lists:
        norm = np.linalg.norm(popularity_counts(histories_from([sequence]), ITEMS))
        assert norm == pytest.approx(1.0 if sequence else 0.0, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(lists=SEQUENCES.filter(bool), decay=DECAYS)
def test_removing_a_user_moves_a_sum_by_at_most_one_and_replacing_by_root_two(
    lists: list[list[int]], decay: float
) -> None:
    whole, without = (packed(summed(part, decay)) for part in (lists, lists[1:]))
    assert np.linalg.norm(whole - without) <= 1 + 1e-12
    other = packed(summed([[8, 0, 3], *lists[1:]], decay))
    assert np.linalg.norm(whole - other) <= math.sqrt(2) + 1e-12, "all entries are positive: no angle above 90°"
