"""LightGCN, FREEDOM-like and VBPR against dense second implementations, hand-made graphs and planted tastes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.csgraph import laplacian

from mmfed.data.schema import Features, Interactions
from mmfed.errors import MmfedError
from mmfed.models.baselines.base import Baseline
from mmfed.models.baselines.early_stopping import HeldOut, hold_out
from mmfed.models.baselines.freedom import Freedom
from mmfed.models.baselines.interaction_graph import apply_linear, interaction_graph, layer_mean
from mmfed.models.baselines.lightgcn import LightGCN, Smoother
from mmfed.models.baselines.pairwise import Pairs, Schedule, fit_pairwise, vector_table
from mmfed.models.baselines.vbpr import VBPR, content_matrix
from mmfed.models.item_graph import content_graph
from mmfed.rng import torch_generator

GROUP = 20  # items of each of the two tastes
USERS = 60


def interactions(rows: list[list[int]], items: int) -> Interactions:
    count = sum(len(row) for row in rows)
    return Interactions(
        user_ids=[f"u{i}" for i in range(len(rows))],
        indptr=np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64),
        items=np.array([i for row in rows for i in row], dtype=np.int32),
        times=np.arange(count, dtype=np.int64),
        actions=np.zeros(count, dtype=np.int8),
        values=np.full(count, np.nan, dtype=np.float32),
        item_count=items,
    )


def planted(cold: int = 0) -> tuple[Interactions, np.ndarray]:
    """Users of two tastes, and the taste of each item; the last ``cold`` items of each taste are nobody's."""
    generator = np.random.default_rng(0)
    taste = np.arange(2 * GROUP) % 2
    warm = np.arange(2 * GROUP) < 2 * (GROUP - cold)
    rows = [generator.permutation(np.flatnonzero((taste == user % 2) & warm))[:8].tolist() for user in range(USERS)]
    return interactions(rows, 2 * GROUP), taste


def told(taste: np.ndarray, present: np.ndarray | None = None) -> dict[str, Features]:
    """Features that tell the taste, with noise."""
    generator = np.random.default_rng(1)
    values = np.where(taste[:, None] == 1, [1.0, -1.0, 0.5], [-1.0, 1.0, -0.5]) + 0.3 * generator.normal(
        size=(len(taste), 3)
    )
    return {"image": Features(values.astype(np.float32), np.ones(len(taste), bool) if present is None else present)}


def separation(baseline: Baseline, train: Interactions, taste: np.ndarray, items: np.ndarray) -> float:
    """Share of (own, other) pairs among ``items``, unseen in training, that are in the right order; chance is .5."""
    scores = baseline.score(train, np.arange(train.user_count))
    right = []
    for user in range(train.user_count):
        unseen = np.setdiff1d(items, train.items[train.rows(user)])
        own, other = (scores[user, unseen[taste[unseen] == side]] for side in (user % 2, 1 - user % 2))
        right.append((own[:, None] > other[None, :]).mean())
    return float(np.mean(right))


def small(kind: type, **changes: object) -> Baseline:
    quick = {"epochs": 40, "patience": 40, "batch": 128, "learning_rate": 0.02}
    return kind(8, **(quick | changes))


# ---- the user-item graph


TOY = interactions([[0, 1, 0], [1], []], 3)  # user 0 had item 0 twice; user 2 and item 2 are isolated


def test_propagation_by_hand() -> None:
    graph = interaction_graph(TOY)
    half, root = 1 / np.sqrt(2), 0.5  # degrees: users 2, 1, 0; items 1, 2, 0
    expected = np.zeros((6, 6))
    for user, item, weight in ((0, 0, half), (0, 1, root), (1, 1, half)):
        expected[user, 3 + item] = expected[3 + item, user] = weight
    np.testing.assert_allclose(graph.matrix().toarray(), expected, rtol=1e-6)
    assert graph.popularity.tolist() == [1, 2, 0]
    vectors = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
    one = layer_mean(graph.matrix(), vectors, 1)
    by_hand = [(1 + half * 4 + root * 5) / 2, (2 + half * 5) / 2, 1.5, (4 + half * 1) / 2, (5 + root + half * 2) / 2, 3]
    np.testing.assert_allclose(one[:, 0].numpy(), by_hand, rtol=1e-6)
    assert torch.equal(layer_mean(graph.matrix(), vectors, 0), vectors)


def test_normalisation_against_scipy() -> None:
    train, _ = planted()
    matrix = interaction_graph(train).matrix()
    adjacency = (matrix.toarray() > 0).astype(np.float64)
    assert np.array_equal(adjacency, adjacency.T)
    np.testing.assert_allclose(
        matrix.toarray(), np.diag(adjacency.any(0)) - laplacian(adjacency, normed=True), atol=1e-6
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), layers=st.integers(0, 3))
def test_gradients_against_dense_autograd(seed: int, layers: int) -> None:
    generator = np.random.default_rng(seed)
    one_way = sparse.csr_array(sparse.random_array((7, 7), density=0.4, rng=generator, dtype=np.float32))
    both = sparse.csr_array(one_way + one_way.T)
    start = torch.from_numpy(generator.normal(size=(7, 3)).astype(np.float32))
    weight = torch.from_numpy(generator.normal(size=(7, 3)).astype(np.float32))
    sparse_side, dense_side = start.clone().requires_grad_(), start.clone().requires_grad_()
    back = sparse.csr_array(one_way.T)
    spread = apply_linear(sparse_side, lambda v: one_way @ v, lambda v: back @ v)
    ((layer_mean(both, sparse_side, layers) + spread) * weight).sum().backward()
    power, total = dense_side, dense_side
    for _ in range(layers):
        power = torch.from_numpy(both.toarray()) @ power
        total = total + power
    ((total / (layers + 1) + torch.from_numpy(one_way.toarray()) @ dense_side) * weight).sum().backward()
    assert sparse_side.grad is not None
    assert dense_side.grad is not None
    np.testing.assert_allclose(sparse_side.grad.numpy(), dense_side.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_popular_edges_are_dropped_first() -> None:
    # Item 0 has 50 users of one item each; 50 further users have an item of their own.
    train = interactions([[0]] * 50 + [[1 + user] for user in range(50)], 51)
    graph = interaction_graph(train)
    kept = [graph.sample_edges(0.5, np.random.default_rng(seed)) for seed in range(40)]
    assert {len(one.users) for one in kept} == {50}
    assert all(len(set(zip(one.users.tolist(), one.items.tolist(), strict=True))) == 50 for one in kept)
    share = np.mean([(one.items == 0).mean() for one in kept])
    # Weights 1 / sqrt(50) against 1: sequential draws give about .16; uniform dropping gives .5.
    assert 0.1 < share < 0.22
    assert len(graph.sample_edges(1.0, np.random.default_rng(0)).users) == 100


# ---- the models against dense second implementations


def dense_propagation(train: Interactions, vectors: np.ndarray, layers: int) -> np.ndarray:
    users, items = train.user_count, train.item_count
    adjacency = np.zeros((users + items, users + items))
    adjacency[train.user_of_row(), users + train.items] = 1
    adjacency = np.maximum(adjacency, adjacency.T)
    degree = np.maximum(adjacency.sum(axis=1), 1)
    adjacency /= np.sqrt(degree[:, None] * degree[None, :])
    powers = [np.linalg.matrix_power(adjacency, step) @ vectors for step in range(layers + 1)]
    return np.mean(powers, axis=0)


def untrained(name: str, train: Interactions) -> np.ndarray:
    generator = torch_generator(3, "baseline", name)
    return vector_table(train.user_count + train.item_count, 8, generator).detach().numpy().astype(np.float64)


def test_lightgcn_scores_against_dense_powers() -> None:
    train, _ = planted(cold=2)
    found = LightGCN(8, epochs=1, learning_rate=1e-12, layers=2).fit(train, seed=3).score(train, np.arange(USERS))
    final = dense_propagation(train, untrained("lightgcn", train), 2)
    np.testing.assert_allclose(found, final[:USERS] @ final[USERS:].T, rtol=1e-3, atol=1e-6)


def test_freedom_scores_against_dense_powers() -> None:
    train, taste = planted(cold=2)
    features = told(taste)
    model = Freedom(8, epochs=1, learning_rate=1e-12, layers=1, item_layers=2, neighbours=3, kept_edges=0.3)
    found = model.fit(train, seed=3, features=features).score(train, np.arange(USERS))
    start = untrained("freedom", train)
    alike = content_graph(features, neighbours=3).matrix().toarray()
    final = dense_propagation(train, start, 1)
    items = final[USERS:] + alike @ alike @ start[USERS:]
    np.testing.assert_allclose(found, final[:USERS] @ items.T, rtol=1e-3, atol=1e-6)


def test_freedom_gradient_goes_back_along_directed_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    train, taste = planted()
    caught: list[Smoother] = []

    def catch(train: Interactions, dimensions: int, schedule: Schedule, smooth: Smoother, **options: object) -> None:
        caught.append(smooth)

    monkeypatch.setattr("mmfed.models.baselines.freedom.fit_smoothed", catch)
    Freedom(4, layers=0, neighbours=3, item_layers=2).fit(train, seed=0, features=told(taste))
    vectors = torch.ones(USERS + 2 * GROUP, 4, requires_grad=True)
    target = 5
    caught[0](interaction_graph(train).matrix(), vectors)[USERS + target].sum().backward()
    alike = content_graph(told(taste), neighbours=3).matrix().toarray()
    expected = np.eye(2 * GROUP)[target] + (alike @ alike)[target]
    assert vectors.grad is not None
    np.testing.assert_allclose(vectors.grad[USERS:, 0].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert not vectors.grad[:USERS].any()


def test_content_matrix_masks_and_scales() -> None:
    values = np.array([[3, 4], [9, 9], [0, 5]], dtype=np.float32)
    whole = Features(np.full((3, 1), 2.0, dtype=np.float32), np.ones(3, dtype=bool))
    found = content_matrix({"image": Features(values, np.array([True, False, True])), "text": whole})
    # Mean square norm of the present rows is 25; "text" is everywhere, so it needs no presence column.
    np.testing.assert_allclose(found, [[0.6, 0.8, 1, 1], [0, 0, 0, 1], [0, 1, 1, 1]], rtol=1e-6)
    nobody = content_matrix({"image": Features(values * np.nan, np.zeros(3, dtype=bool))})
    assert nobody.tolist() == [[0, 0]] * 3


# ---- what they learn


@pytest.mark.parametrize("kind", [LightGCN, Freedom, VBPR])
def test_planted_tastes_are_learned(kind: type) -> None:
    train, taste = planted()
    model = small(kind).fit(train, seed=0, features=told(taste))
    assert separation(model, train, taste, np.arange(2 * GROUP)) > 0.9


@pytest.mark.parametrize("kind", [Freedom, VBPR])
def test_cold_items_are_placed_by_content_and_lost_when_it_is_permuted(kind: type) -> None:
    train, taste = planted(cold=6)
    cold = np.arange(2 * (GROUP - 6), 2 * GROUP)
    features = told(taste)
    shuffled = {"image": Features(features["image"].values[np.random.default_rng(5).permutation(2 * GROUP)],
                                  features["image"].present)}  # fmt: skip
    assert separation(small(kind).fit(train, seed=0, features=features), train, taste, cold) > 0.9
    assert separation(small(kind).fit(train, seed=0, features=shuffled), train, taste, cold) < 0.75


def test_vbpr_learns_what_absence_means() -> None:
    # Everybody takes the items without a picture; zeros alone would make them average.
    present = np.arange(20) % 2 > 0
    values = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    absent = np.flatnonzero(~present)[:7]  # three further ones stay cold
    train = interactions([absent[np.arange(7) != user % 7].tolist() for user in range(40)], 20)
    model = small(VBPR).fit(train, seed=0, features={"image": Features(values, present)})
    scores = model.score(train, np.arange(40))
    assert scores[:, np.flatnonzero(~present)[7:]].mean() > scores[:, present].max(axis=1).mean()


@pytest.mark.parametrize("kind", [LightGCN, Freedom])
def test_a_user_without_history_gets_the_items_by_popularity(kind: type) -> None:
    train, taste = planted(cold=1)
    rows = [train.items[train.rows(user)].tolist() for user in range(USERS)]
    rows[7] = []
    train = interactions(rows, 2 * GROUP)
    scores = small(kind, epochs=2).fit(train, seed=0, features=told(taste)).score(train, np.array([7, 0]))
    assert scores[0].tolist() == np.bincount(train.items, minlength=2 * GROUP).tolist()
    assert np.ptp(scores[1]) > 0


def test_vbpr_gives_a_user_without_history_the_biases() -> None:
    rows = [[0, 1]] * 30 + [[0, 2]] * 10 + [[], []]
    train = interactions(rows, 4)
    features = told(np.array([0, 0, 1, 1]))
    scores = small(VBPR).fit(train, seed=0, features=features).score(train, np.array([40, 41]))
    assert np.array_equal(scores[0], scores[1])
    assert scores[0].argmax() == 0
    assert scores[0].argmin() == 3


# ---- stopping


def test_the_last_interactions_of_some_users_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    train = interactions([[4, 1], [2], [], [3, 0, 4]], 5)
    held = hold_out(train, np.random.default_rng(0))
    assert held.users.tolist() == [0, 3]
    assert held.items.tolist() == [1, 4]
    assert held.rest.items.tolist() == [4, 2, 3, 0]
    monkeypatch.setattr("mmfed.models.baselines.early_stopping.MOST_USERS", 1)
    chosen = [hold_out(train, np.random.default_rng(seed)).users.tolist() for seed in range(20)]
    assert {0, 3} == {user for users in chosen for user in users}


def test_held_out_ndcg_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = interactions([[0], [1, 2], []], 5)
    held = HeldOut(rest, np.array([0, 1, 2]), np.array([3, 0, 2]))
    table = np.array([[9, 5, 1, 4, 0], [7, 9, 9, 1, 1], [3, 3, 3, 1, 1]], dtype=np.float32)
    # Ranks 2 (the 9 is known), 1 (both 9s are known) and 3 (ties count against).
    expected = (1 / np.log2(3) + 1 + 1 / np.log2(4)) / 3
    assert held.ndcg(lambda users: table[users]) == pytest.approx(expected)
    monkeypatch.setattr("mmfed.models.baselines.early_stopping.CELLS_AT_ONCE", 5)
    assert held.ndcg(lambda users: table[users]) == pytest.approx(expected)
    monkeypatch.setattr("mmfed.models.baselines.early_stopping.LIST_LENGTH", 2)
    assert held.ndcg(lambda users: table[users]) == pytest.approx((1 / np.log2(3) + 1) / 3)
    assert table[0, 0] == 9


def counted(answers: list[float]) -> tuple[Callable[[], float], list[float], torch.Tensor]:
    """A quality that plays back ``answers`` and notes the parameter at each call."""
    parameter, seen, left = torch.zeros(1, requires_grad=True), [], list(answers)

    def quality() -> float:
        seen.append(parameter.item())
        return left.pop(0)

    return quality, seen, parameter


def test_training_stops_and_goes_back_to_the_best_epoch() -> None:
    quality, seen, parameter = counted([0.1, 0.3, 0.3, 0.2, 0.9])
    fit_pairwise(
        interactions([[0], [1]], 3), [parameter],
        lambda users, liked, other: Pairs(parameter.expand(len(users)), torch.zeros(())),
        Schedule(epochs=5, batch=8, learning_rate=0.1, weight_decay=0.0, patience=2),
        torch.Generator().manual_seed(0), quality=quality,
    )  # fmt: skip
    assert len(seen) == 4  # two epochs without a gain after the second
    assert seen == sorted(set(seen))  # it did move every epoch
    assert parameter.item() == seen[1]


def test_held_out_interactions_do_not_train(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def spy(train: Interactions, *arguments: object, **options: object) -> None:
        asked.append(len(train))

    for module, kind in (("lightgcn", LightGCN), ("vbpr", VBPR)):
        monkeypatch.setattr(f"mmfed.models.baselines.{module}.fit_pairwise", spy)
        train, taste = planted()
        kind().fit(train, seed=0, features=told(taste))
    assert asked == [USERS * 7, USERS * 7]


# ---- faults


@pytest.mark.parametrize(
    "build",
    [
        lambda: LightGCN(layers=-1),
        lambda: LightGCN(0),
        lambda: LightGCN(patience=0),
        lambda: LightGCN(learning_rate=float("nan")),
        lambda: Freedom(kept_edges=0.0),
        lambda: Freedom(kept_edges=1.5),
        lambda: Freedom(neighbours=0),
        lambda: Freedom(item_layers=-1),
        lambda: VBPR(0),
        lambda: VBPR(weight_decay=float("nan")),
    ],
)
def test_impossible_settings_are_refused(build: Callable[[], Baseline]) -> None:
    with pytest.raises(MmfedError, match="not valid"):
        build()


@pytest.mark.parametrize("kind", [LightGCN, Freedom, VBPR])
def test_a_static_user_vector_serves_nobody_else(kind: type) -> None:
    train, taste = planted()
    model = small(kind, epochs=1).fit(train, seed=0, features=told(taste))
    with pytest.raises(MmfedError, match=f"knows {USERS} users, the history has 1"):
        model.score(interactions([[0]], 2 * GROUP), np.array([0]))
