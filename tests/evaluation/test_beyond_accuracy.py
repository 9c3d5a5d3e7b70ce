"""Beyond-accuracy metrics against brute force and known extremes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.evaluation.beyond_accuracy import (
    catalogue_coverage,
    gini,
    intra_list_diversity,
    list_mean,
    popularity_ranks,
    surprise,
)


def random_lists(seed: int, users: int = 9, k: int = 5, items: int = 14) -> np.ndarray:
    generator = np.random.default_rng(seed)
    lists = np.stack([generator.permutation(items)[:k] for _ in range(users)])
    lists[generator.random(users) < 0.3, k - 2 :] = -1
    return lists


def test_gini_extremes() -> None:
    assert gini(np.array([[0], [1], [2], [3]]), 4).mean == pytest.approx(0)
    assert gini(np.array([[0], [0], [0]]), 4).mean == pytest.approx(3 / 4)  # (n - 1) / n: one item has it all
    assert gini(np.array([[0], [1]]), 4).mean == pytest.approx(1 / 2)  # items never shown count
    assert not gini(np.array([[-1]]), 4).defined


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_gini_is_half_the_relative_mean_difference(seed: int) -> None:
    lists = random_lists(seed)
    shown = np.bincount(lists[lists >= 0], minlength=14)
    brute = np.abs(shown[:, None] - shown[None, :]).sum() / (2 * 14 * shown.sum())
    assert gini(lists, 14).mean == pytest.approx(brute)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_coverage_interval_is_the_delete_one_jackknife(seed: int) -> None:
    lists = random_lists(seed)
    estimate = catalogue_coverage(lists, 14)
    without = [catalogue_coverage(np.delete(lists, user, axis=0), 14).mean for user in range(len(lists))]
    error = np.sqrt((len(lists) - 1) * np.var(without))
    assert estimate.low == pytest.approx(max(0, estimate.mean - 1.959964 * error), abs=1e-6)
    assert estimate.high == pytest.approx(min(1, estimate.mean + 1.959964 * error), abs=1e-6)


def test_gini_interval_is_close_to_the_delete_one_jackknife() -> None:
    generator = np.random.default_rng(2)
    lists = np.stack([np.argsort(generator.random(30) ** np.arange(1, 31))[-4:] for _ in range(150)])
    lists[::3, 2:] = -1
    without = [gini(np.delete(lists, user, axis=0), 30).mean for user in range(150)]
    assert gini(lists, 30).standard_error == pytest.approx(np.sqrt(149 * np.var(without)), rel=0.05)


def test_gini_interval_covers_what_repetition_shows() -> None:
    """The jackknife error is near the spread of the figure over fresh samples of users."""
    generator = np.random.default_rng(1)
    weights = 1 / np.arange(1, 101)

    def lists() -> np.ndarray:
        keys = np.log(weights) - np.log(-np.log(generator.random((400, 100))))
        return np.argsort(-keys, axis=1)[:, :5]

    spread = np.std([gini(lists(), 100).mean for _ in range(100)])
    error = gini(lists(), 100).standard_error
    assert error is not None
    assert 0.75 * spread < error < 1.35 * spread


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), labels=st.booleans())
def test_diversity_is_the_mean_over_pairs(seed: int, labels: bool) -> None:
    generator = np.random.default_rng(seed)
    lists = random_lists(seed)
    vectors = generator.random((14, 3)) < 0.4 if labels else generator.normal(size=(14, 3))
    vectors[0] = 0
    found = intra_list_diversity(lists, vectors, (1, 3, 5))
    numbers = vectors.astype(float)
    for k, (user, row) in itertools.product((1, 3, 5), enumerate(lists)):
        known = [i for i in row[:k] if i >= 0 and numbers[i].any()]
        pairs = [
            1 - numbers[a] @ numbers[b] / np.linalg.norm(numbers[a]) / np.linalg.norm(numbers[b])
            for a, b in itertools.combinations(known, 2)
        ]
        assert found[k][user] == pytest.approx(np.mean(pairs) if pairs else np.nan, nan_ok=True, abs=1e-9)


def test_diversity_of_single_labels_is_the_share_of_unlike_pairs() -> None:
    labels = np.eye(2, dtype=bool)[[0, 0, 1]]
    assert intra_list_diversity(np.array([[0, 1, 2]]), labels, (3,))[3][0] == pytest.approx(2 / 3)


def test_surprise_is_bits_and_finite() -> None:
    assert surprise(np.array([8, 4, 1, 0, 9]), 8).tolist() == [0, 1, 3, 3, 0]


def test_list_mean_skips_the_padding() -> None:
    values = list_mean(np.array([[0, 2], [1, -1], [-1, -1]]), np.array([1.0, 5.0, 3.0]))
    assert values[:2].tolist() == [2, 5]
    assert np.isnan(values[2])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_popularity_rank_counts_unknown_items_of_more_count(seed: int) -> None:
    generator = np.random.default_rng(seed)
    counts = generator.integers(0, 5, 12)
    known = [set(generator.permutation(12)[: generator.integers(0, 6)].tolist()) for _ in range(4)]
    asked = [(row, item) for row in range(4) for item in range(12) if item not in known[row]]
    pairs = [(row, item) for row in range(4) for item in sorted(known[row])]
    known_rows, known_items = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    rows, items = (np.array([pair[side] for pair in asked]) for side in (0, 1))
    found = popularity_ranks(rows, items, (known_rows, known_items), counts)
    for place, (row, item) in enumerate(asked):
        brute = 1 + sum(counts[other] > counts[item] for other in range(12) if other not in known[row])
        assert found[place] == brute
