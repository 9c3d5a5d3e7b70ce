"""Band-EASE against one ridge regression per item, and against plain EASE where the two are the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import histories_from

from mmfed.data.schema import Interactions
from mmfed.errors import MmfedError
from mmfed.models.band_ease import BandEase, ease_weights, standardised
from mmfed.models.baselines.ease import EASE
from mmfed.models.item_graph import ItemGraph
from mmfed.training.cooccurrence import banded_cooccurrence

ITEMS = 8


def interactions(lists: Sequence[Sequence[int]], items: int = ITEMS) -> Interactions:
    count = sum(map(len, lists))
    return Interactions(
        user_ids=[f"u{user}" for user in range(len(lists))],
        indptr=np.cumsum([0, *map(len, lists)]).astype(np.int64),
        items=np.array([item for one in lists for item in one], dtype=np.int32),
        times=np.arange(count, dtype=np.int64),
        actions=np.zeros(count, dtype=np.int8),
        values=np.full(count, np.nan, dtype=np.float32),
        item_count=items,
    )


def random_lists(seed: int, *, users: int = 20, items: int = ITEMS, length: int | None = None) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.permutation(items)[: length or generator.integers(1, items)].tolist() for _ in range(users)]


def summed(lists: Sequence[Sequence[int]], decay: float, items: int = ITEMS) -> np.ndarray:
    return banded_cooccurrence(histories_from(lists), items, decay=decay)


def item_by_item(gram: np.ndarray, ridge: float) -> np.ndarray:
    """Column j: the ridge regression of item j on all other items, from inner products alone."""
    items = len(gram)
    weights = np.zeros((items, items))
    for item in range(items):
        others = np.delete(np.arange(items), item)
        system = gram[np.ix_(others, others)] + ridge * np.eye(items - 1)
        weights[others, item] = np.linalg.solve(system, gram[others, item])
    return weights


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), decay=st.sampled_from([0.5, 0.9, 1.0]), ridge=st.sampled_from([0.1, 2.0, 50.0]))
def test_against_one_regression_per_item(seed: int, decay: float, ridge: float) -> None:
    gram = summed(random_lists(seed), decay)
    found = BandEase(gram, ridge=ridge, history_decay=0.9).weights
    np.testing.assert_allclose(found, item_by_item(gram, ridge), rtol=1e-8, atol=1e-10)
    assert (np.diag(found) == 0).all()


def test_without_decay_a_user_is_a_row_that_counts_by_one_over_its_length() -> None:
    """K_u = x xᵀ / n for decay 1: least squares over rows of weight 1 / n, solved here from the rows themselves."""
    lists, ridge = random_lists(3), 1.5
    rows = np.zeros((len(lists), ITEMS))
    for user, items in enumerate(lists):
        rows[user, items] = 1 / np.sqrt(len(items))
    found = BandEase(summed(lists, 1.0), ridge=ridge, history_decay=1.0).weights
    for item in range(ITEMS):
        others = np.delete(np.arange(ITEMS), item)
        stacked = np.concatenate([rows[:, others], np.sqrt(ridge) * np.eye(ITEMS - 1)])
        target = np.concatenate([rows[:, item], np.zeros(ITEMS - 1)])
        expected = np.linalg.lstsq(stacked, target, rcond=None)[0]
        np.testing.assert_allclose(found[others, item], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("length", [2, 5])
def test_it_is_ease_where_all_users_are_equally_long(length: int) -> None:
    lists = random_lists(4, length=length)
    shop, everyone = interactions(lists), np.arange(len(lists))
    plain = EASE(regularisation=3.0 * length, decay=0.8).fit(shop, seed=0)
    ours = BandEase(summed(lists, 1.0), ridge=3.0, history_decay=0.8)
    np.testing.assert_allclose(ours.score(shop, everyone), plain.score(shop, everyone), rtol=1e-9, atol=1e-12)
    banded = BandEase(summed(lists, 0.5), ridge=3.0, history_decay=0.8)
    assert not np.allclose(banded.score(shop, everyone), plain.score(shop, everyone), rtol=1e-3)


def test_scores_weigh_the_history_by_recency() -> None:
    lists = random_lists(5)
    model = BandEase(summed(lists, 0.9), ridge=2.0, history_decay=0.5)
    history = interactions([[], [6, 1, 6, 3], [2]])
    found = model.score(history, np.array([1, 0, 2, 1]))
    by_hand = 0.25 * model.weights[1] + 0.5 * model.weights[6] + model.weights[3]  # 6 at its latest place
    np.testing.assert_allclose(found[[0, 3]], [by_hand, by_hand], rtol=1e-12)
    assert not found[1].any()
    np.testing.assert_allclose(found[2], model.weights[2], rtol=1e-12)


def test_the_sum_is_not_changed() -> None:
    gram = summed(random_lists(6), 0.9)
    before = gram.copy()
    BandEase(gram, ridge=2.0, history_decay=0.9)
    np.testing.assert_array_equal(gram, before)


def test_a_huge_ridge_leaves_the_sum_itself() -> None:
    """B → G / λ off the diagonal: tiny, finite, in the order of the co-occurrence."""
    gram = summed(random_lists(7), 0.9)
    weights = ease_weights(gram.copy(), 1e12)
    np.testing.assert_allclose(weights * 1e12, gram - np.diag(np.diag(gram)), rtol=1e-6, atol=1e-6)
    assert (np.diag(weights) == 0).all()


def test_items_nobody_touched_neither_score_nor_make_others_score() -> None:
    model = BandEase(summed([[0, 1], [1, 2]], 0.9), ridge=2.0, history_decay=0.9)
    assert not model.weights[3:].any()
    assert not model.weights[:, 3:].any()
    assert model.weights[0, 1] > 0
    assert not model.popularity[3:].any()


def test_popularity_grows_with_the_users_of_an_item() -> None:
    lists = [[0], [0], [0, 1], [1, 2]]
    model = BandEase(summed(lists, 1.0), ridge=2.0, history_decay=0.9)
    np.testing.assert_allclose(model.popularity[:4], np.log([1 + 2.5, 1 + 1, 1 + 0.5, 1]), rtol=1e-12)
    noised = np.diag([-5.0, 1.0])
    assert BandEase(noised, ridge=9.0, history_decay=0.9).popularity.tolist() == [0, np.log(2)]


def edges(graph: ItemGraph, item: int) -> set[int]:
    return set(graph.indices[item, graph.weights[item] > 0].tolist())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), neighbours=st.integers(1, 12))
def test_graph_holds_the_strongest_positive_weights(seed: int, neighbours: int) -> None:
    model = BandEase(summed(random_lists(seed, users=6), 0.7), ridge=0.5, history_decay=0.9)
    graph = model.graph(neighbours)
    kept = min(neighbours, ITEMS - 1)
    assert graph.indices.shape == graph.weights.shape == (ITEMS, kept)
    strength = np.maximum(model.weights, model.weights.T)
    for item in range(ITEMS):
        found = edges(graph, item)
        assert item not in found
        assert len(found) == min(kept, int((strength[item] > 0).sum()))
        left = set(range(ITEMS)) - found
        assert all(strength[item, i] >= strength[item, j] - 1e-12 for i in found for j in left)
    degree = {item: max(len(edges(graph, item)), 1) for item in range(ITEMS)}
    for item, column in zip(*np.nonzero(graph.weights), strict=True):
        other = int(graph.indices[item, column])
        expected = 1 / np.sqrt(degree[int(item)] * degree[other])
        assert graph.weights[item, column] == pytest.approx(expected, rel=1e-6)


def test_a_catalogue_of_one_item() -> None:
    model = BandEase(np.array([[3.0]]), ridge=2.0, history_decay=0.9)
    assert model.weights.tolist() == [[0.0]]
    assert model.score(interactions([[0, 0]], 1), np.array([0])).tolist() == [[0.0]]
    assert model.graph(10).indices.shape == (1, 0)


def test_two_items_by_hand() -> None:
    model = BandEase(np.array([[2.0, 1.0], [1.0, 3.0]]), ridge=1.0, history_decay=1.0)
    np.testing.assert_allclose(model.weights, [[0, 1 / (2 + 1)], [1 / (3 + 1), 0]], rtol=1e-12)
    assert edges(model.graph(10), 0) == {1}


def test_without_any_user_nothing_is_known() -> None:
    model = BandEase(np.zeros((ITEMS, ITEMS)), ridge=2.0, history_decay=0.9)
    assert not model.weights.any()
    assert not model.graph(3).weights.any()


def test_standardised_rows() -> None:
    found = standardised(np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]))
    np.testing.assert_allclose(found[0], [-np.sqrt(1.5), 0, np.sqrt(1.5)], rtol=1e-12)
    assert found[1].tolist() == [0, 0, 0]


def test_a_sum_that_is_not_positive_definite_is_named() -> None:
    with pytest.raises(MmfedError, match="not positive definite"):
        ease_weights(np.array([[0.0, 5.0], [5.0, 0.0]]), 1.0)
