"""The item graph against hand-made graphs and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.data.schema import Features
from mmfed.errors import MmfedError
from mmfed.evaluation.protocol import index_tie_keys, tie_keys
from mmfed.models.item_graph import ItemGraph, content_graph


def features(values: object, present: object = None) -> Features:
    array = np.asarray(values, dtype=np.float32)
    return Features(array, np.ones(len(array), dtype=bool) if present is None else np.asarray(present, dtype=bool))


def random_features(seed: int, items: int) -> dict[str, Features]:
    generator = np.random.default_rng(seed)
    return {
        name: features(generator.normal(size=(items, width)), generator.random(items) < 0.7)
        for name, width in (("image", 3), ("text", 5))
    }


def edges(graph: ItemGraph, item: int) -> dict[int, float]:
    kept = graph.weights[item] > 0
    return dict(zip(graph.indices[item, kept].tolist(), graph.weights[item, kept].tolist(), strict=True))


def test_by_hand() -> None:
    # Angles 0, 10, 30, 90 and 200 degrees; the last is more than 90 away from 0, 10 and 30, and 110 from 90.
    angles = np.radians([0, 10, 30, 90, 200])
    graph = content_graph({"image": features(np.c_[np.cos(angles), np.sin(angles)])}, neighbours=2)
    third = 1 / np.sqrt(2 * 2)
    assert edges(graph, 0) == pytest.approx({1: third, 2: third})
    assert graph.indices[0].tolist() == [1, 2]  # nearest first
    assert graph.indices[2].tolist() == [1, 0]
    assert edges(graph, 3) == pytest.approx({2: third, 1: third})
    assert edges(graph, 4) == {}
    assert graph.indices[4].tolist() == [4, 4]  # padding is the item itself, with weight 0
    assert graph.indices.dtype == np.int64
    assert graph.weights.dtype == np.float32


def test_degrees_are_numbers_of_neighbours() -> None:
    graph = content_graph({"image": features([[1, 0], [1, 1], [0, 1]])}, neighbours=2)
    # 0 and 2 are orthogonal: they have one neighbour, item 1 has two.
    assert edges(graph, 0) == pytest.approx({1: 1 / np.sqrt(2)})
    assert edges(graph, 1) == pytest.approx({0: 1 / np.sqrt(2), 2: 1 / np.sqrt(2)})


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), neighbours=st.integers(1, 12), share=st.sampled_from([0.0, 0.1, 1.0]))
def test_against_brute_force(seed: int, neighbours: int, share: float) -> None:
    given_features = random_features(seed, 10)
    graph = content_graph(given_features, neighbours=neighbours, weights={"text": share})
    for i in range(10):
        similarity = {}
        for j in set(range(10)) - {i}:
            mean = 0.0
            for name, weight in (("image", 1.0), ("text", share)):
                one = given_features[name]
                if one.present[i] and one.present[j]:
                    a, b = one.values[i].astype(float), one.values[j].astype(float)
                    mean += weight / (1 + share) * (a @ b) / np.sqrt((a @ a) * (b @ b))
            if mean > 1e-6:
                similarity[j] = mean
        expected = sorted(similarity, key=lambda j: -similarity[j])[:neighbours]
        assert list(edges(graph, i)) == expected


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_normalisation_against_dense_matrices(seed: int) -> None:
    graph = content_graph(random_features(seed, 12), neighbours=3)
    matrix = graph.matrix()
    adjacency = (matrix.toarray() > 0).astype(np.float64)
    degree = adjacency.sum(axis=1)
    scale = np.diag(np.where(degree > 0, 1 / np.sqrt(np.maximum(degree, 1)), 0.0))
    np.testing.assert_allclose(matrix.toarray(), scale @ adjacency @ scale, rtol=1e-6)
    assert (degree <= 3).all()


def test_an_item_without_modality_has_no_edge_either_way() -> None:
    values = np.ones((5, 2))
    graph = content_graph({"image": features(values, [1, 1, 0, 0, 1]), "text": features(values, [0, 1, 1, 0, 1])},
                          neighbours=4)  # fmt: skip
    assert edges(graph, 3) == {}
    assert all(3 not in edges(graph, item) for item in range(5))
    assert 2 not in edges(graph, 0)  # nothing in common
    assert graph.indices[1, 0] == 4  # both in common beats one


def test_absent_values_are_never_read() -> None:
    values = np.array([[1.0, 0.0], [1.0, 0.1], [np.nan, np.inf]])
    graph = content_graph({"image": features(values, [1, 1, 0])}, neighbours=2)
    assert edges(graph, 0) == pytest.approx({1: 1.0})
    assert edges(graph, 2) == {}


def test_zero_vectors_and_extreme_numbers() -> None:
    values = np.array([[0, 0], [1e38, 1e38], [1e-40, 1e-40], [3e38, 0]], dtype=np.float32)
    graph = content_graph({"image": features(values)}, neighbours=2)
    assert edges(graph, 0) == {}
    assert graph.indices[1].tolist() == [2, 3]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given_features = random_features(3, 40)
    whole = content_graph(given_features, neighbours=5)
    monkeypatch.setattr("mmfed.models.item_graph.CELLS_AT_ONCE", 41)
    blocks = content_graph(given_features, neighbours=5)
    assert np.array_equal(whole.indices, blocks.indices)
    assert np.array_equal(whole.weights, blocks.weights)


def test_ties_follow_the_item_and_not_its_index() -> None:
    ids = [f"item{i}" for i in range(30)]
    kinds = np.eye(3)[np.arange(30) % 3]  # ten copies of each vector: every neighbour list is a tie
    order = np.random.default_rng(0).permutation(30)
    key = tie_keys(ids, 0)
    graph = content_graph({"image": features(kinds)}, neighbours=4, tie_key=key).matrix().toarray()
    moved = content_graph({"image": features(kinds[order])}, neighbours=4, tie_key=key[order]).matrix().toarray()
    np.testing.assert_array_equal(moved, graph[np.ix_(order, order)])


def test_ties_are_scattered_evenly() -> None:
    graph = content_graph({"image": features(np.ones((200, 2)))}, neighbours=5)
    assert set(np.bincount(graph.indices.ravel(), minlength=200)) == {5}  # no few items are everyone's neighbours
    distance = np.abs(graph.indices - np.arange(200)[:, None])
    assert distance.mean() > 40  # uniform: 67; the next ones by index: 3
    assert np.array_equal(graph.indices, content_graph({"image": features(np.ones((200, 2)))}, neighbours=5,
                                                       tie_key=index_tie_keys(200, 0)).indices)  # fmt: skip


@pytest.mark.parametrize("items", [0, 1])
def test_too_few_items(items: int) -> None:
    graph = content_graph({"image": features(np.ones((items, 2)))}, neighbours=3)
    assert graph.indices.shape == graph.weights.shape == (items, 3)
    assert not graph.weights.any()
    assert graph.matrix().shape == (items, items)


@pytest.mark.parametrize(
    ("given_features", "neighbours", "weights", "message"),
    [
        ({}, 2, None, "no modality"),
        ({"image": features([[1.0]])}, 2, {"image": 0.0}, "no modality"),
        ({"image": features([[1.0]]), "text": features([[1.0], [2.0]])}, 2, None, "unequal numbers"),
        ({"image": features([[np.nan]])}, 2, None, "NaN or infinity"),
        ({"image": features([[1.0]])}, 0, None, "neighbours 0"),
        ({"image": features([[1.0]])}, 2, {"sound": 1.0}, "sound"),
        ({"image": features([[1.0]])}, 2, {"image": -1.0}, "-1.0"),
        ({"image": features([[1.0]])}, 2, {"image": float("nan")}, "nan"),
    ],
)
def test_impossible_input_is_refused(
    given_features: dict[str, Features], neighbours: int, weights: dict[str, float] | None, message: str
) -> None:
    with pytest.raises(MmfedError, match=message):
        content_graph(given_features, neighbours=neighbours, weights=weights)
