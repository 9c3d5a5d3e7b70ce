"""Every baseline under one contract, and each one against a second, slower way to the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.config import SplitSection
from mmfed.data.schema import Features, Interactions
from mmfed.data.sources.movielens import load_movielens
from mmfed.data.split import split_shop
from mmfed.errors import MmfedError
from mmfed.evaluation.ranking import RankingResult, evaluate_ranking
from mmfed.models.baselines.base import KIND_NOTES, Baseline, history_matrix
from mmfed.models.baselines.bpr_mf import BPRMF
from mmfed.models.baselines.ease import EASE
from mmfed.models.baselines.item_knn import ItemKNN
from mmfed.models.baselines.negatives import draw_negatives
from mmfed.models.baselines.popularity import Popularity
from mmfed.models.baselines.random import RandomBaseline
from mmfed.models.baselines.registry import BASELINES, build_baseline


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


def random_rows(seed: int, users: int, items: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.permutation(items)[: generator.integers(0, items)].tolist() for _ in range(users)]


def dense(rows: list[list[int]], items: int) -> np.ndarray:
    matrix = np.zeros((len(rows), items))
    for user, row in enumerate(rows):
        matrix[user, row] = 1
    return matrix


SMALL = interactions([[0, 1, 2], [1, 2], [], [3, 0, 3]], 6)  # user 2 is empty, items 4 and 5 unseen, user 3 repeats


def content(items: int) -> dict[str, Features]:
    """Two modalities; every third item lacks the second."""
    generator = np.random.default_rng(items)
    values = generator.normal(size=(2, items, 4)).astype(np.float32)
    return {
        "image": Features(values[0], np.ones(items, dtype=bool)),
        "text": Features(values[1], np.arange(items) % 3 > 0),
    }


@pytest.mark.parametrize("name", sorted(BASELINES))
class TestContract:
    def test_scores_are_finite_and_shaped(self, name: str) -> None:
        baseline = build_baseline(name).fit(SMALL, seed=0, features=content(6))
        scores = baseline.score(SMALL, np.array([2, 0, 3]))
        assert scores.shape == (3, 6)
        assert np.isfinite(scores).all()
        assert KIND_NOTES[baseline.kind]
        assert baseline.name == name

    def test_a_users_scores_do_not_depend_on_company(self, name: str) -> None:
        baseline = build_baseline(name).fit(SMALL, seed=0, features=content(6))
        together = baseline.score(SMALL, np.array([0, 1, 3]))
        np.testing.assert_allclose(baseline.score(SMALL, np.array([3])), together[2:], rtol=1e-6)
        assert baseline.score(SMALL, np.array([], dtype=int)).shape == (0, 6)

    def test_same_seed_same_model(self, name: str) -> None:
        first, again = (
            build_baseline(name).fit(SMALL, seed=3, features=content(6)).score(SMALL, np.arange(4)) for _ in range(2)
        )
        assert np.array_equal(first, again)

    @pytest.mark.parametrize("rows", [[[0]], [[0], [0]], [[]], [[], [0]]])
    def test_one_item_or_one_user(self, name: str, rows: list[list[int]]) -> None:
        history = interactions(rows, 1)
        scores = build_baseline(name).fit(history, seed=0, features=content(1)).score(history, np.arange(len(rows)))
        assert scores.shape == (len(rows), 1)
        assert np.isfinite(scores).all()

    def test_scoring_unfitted_or_on_another_catalogue_is_refused(self, name: str) -> None:
        baseline = build_baseline(name)
        with pytest.raises(MmfedError, match="has not been fitted"):
            baseline.score(SMALL, np.arange(2))
        with pytest.raises(MmfedError, match="fitted on 6 items, the history has 7"):
            baseline.fit(SMALL, seed=0, features=content(6)).score(interactions([[0]] * 4, 7), np.arange(2))

    def test_seeds_change_the_model_where_the_class_says_so(self, name: str) -> None:
        first, other = (
            build_baseline(name).fit(SMALL, seed=seed, features=content(6)).score(SMALL, np.arange(4))
            for seed in (0, 1)
        )
        assert np.array_equal(first, other) == (not BASELINES[name].drawn)

    def test_content_is_asked_for_where_the_class_says_so(self, name: str) -> None:
        baseline = build_baseline(name)
        if not baseline.reads_content:
            baseline.fit(SMALL, seed=0)
            return
        for nothing in (None, {}):
            with pytest.raises(MmfedError, match=rf"'{name}' learns from item content.*features\.modalities"):
                baseline.fit(SMALL, seed=0, features=nothing)
        with pytest.raises(MmfedError, match="cover 5 items, the interactions 6"):
            baseline.fit(SMALL, seed=0, features=content(5))

    def test_an_empty_catalogue_part_is_no_catastrophe(self, name: str) -> None:
        none = {"image": Features(np.full((6, 3), np.nan, dtype=np.float32), np.zeros(6, dtype=bool))}
        scores = build_baseline(name).fit(SMALL, seed=0, features=none).score(SMALL, np.arange(4))
        assert np.isfinite(scores).all()


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(MmfedError, match=r"did you mean 'popularity'"):
        build_baseline("populrity")


def test_history_matrix_weighs_the_latest_position() -> None:
    weights = history_matrix(SMALL, np.array([3, 2, 0]), decay=0.5).toarray()
    assert weights.tolist() == [[0.5, 0, 0, 1, 0, 0], [0] * 6, [0.25, 0.5, 1, 0, 0, 0]]
    assert history_matrix(SMALL, np.array([3])).toarray().tolist() == [[1, 0, 0, 1, 0, 0]]


def test_random_depends_on_the_seed_and_orders_at_chance() -> None:
    history = interactions([[]] * 400, 50)
    scores, other = (RandomBaseline().fit(history, seed=seed).score(history, np.arange(400)) for seed in (0, 1))
    assert not np.array_equal(scores, other)
    assert (scores.argmax(axis=1) < 10).mean() == pytest.approx(0.2, abs=0.08)


def test_popularity_counts_users_once() -> None:
    scores = Popularity().fit(SMALL, seed=0).score(SMALL, np.array([2]))
    assert scores.tolist() == [[2, 2, 2, 1, 0, 0]]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), neighbours=st.integers(1, 9))
def test_item_knn_against_brute_force(seed: int, neighbours: int) -> None:
    rows = random_rows(seed, 12, 8)
    held = dense(rows, 8)
    cosines = np.zeros((8, 8))
    for i in range(8):
        for j in range(8):
            if i != j and held[:, i].any() and held[:, j].any():
                cosines[i, j] = held[:, i] @ held[:, j] / np.sqrt(held[:, i].sum() * held[:, j].sum())
    for j in range(8):
        others = np.sort(cosines[:, j])[::-1]
        border = others[min(neighbours, 8) - 1]
        cosines[cosines[:, j] < border - 1e-12, j] = 0
    train = interactions(rows, 8)
    found = ItemKNN(neighbours).fit(train, seed=0).score(train, np.arange(12))
    # Neighbours at the border are kept together; float noise may part exact ties, so compare where there are none.
    gaps = [np.abs(np.diff(np.sort(cosines[:, j]))) for j in range(8)]
    clear = np.array([all((gap > 1e-9) | (gap == 0)) for gap in gaps])
    plain = np.array([len(np.unique(cosines[cosines[:, j] > 0, j])) == (cosines[:, j] > 0).sum() for j in range(8)])
    np.testing.assert_allclose(found[:, clear & plain], (held @ cosines)[:, clear & plain], atol=1e-9)


def test_item_knn_by_hand_and_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    train = interactions([[0, 1], [0, 1], [0, 2], [2]], 4)
    model = ItemKNN(1).fit(train, seed=0)
    # cosine(0, 1) = 2 / sqrt(3 * 2), cosine(0, 2) = 1 / sqrt(3 * 2); item 3 is unseen
    scores = model.score(interactions([[0], [], [1, 2], [3]], 4), np.arange(4))
    expected = [[0, 2 / 6**0.5, 1 / 6**0.5, 0], [0] * 4, [2 / 6**0.5, 0, 0, 0], [0] * 4]
    np.testing.assert_allclose(scores, expected, atol=1e-12)
    monkeypatch.setattr("mmfed.models.baselines.item_knn.CELLS_AT_ONCE", 4)
    np.testing.assert_allclose(
        ItemKNN(1).fit(train, seed=0).score(train, np.arange(4)), model.score(train, np.arange(4))
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), regularisation=st.sampled_from([0.5, 10.0, 100.0]))
def test_ease_against_constrained_regression(seed: int, regularisation: float) -> None:
    rows = random_rows(seed, 15, 7)
    held = dense(rows, 7)
    weights = np.zeros((7, 7))
    for j in range(7):
        rest = [i for i in range(7) if i != j]
        normal = held[:, rest].T @ held[:, rest] + regularisation * np.eye(6)
        weights[rest, j] = np.linalg.solve(normal, held[:, rest].T @ held[:, j])
    train = interactions(rows, 7)
    scores = EASE(regularisation).fit(train, seed=0).score(train, np.arange(15))
    np.testing.assert_allclose(scores, held @ weights, atol=1e-9)


def test_ease_decay_favours_the_latest_item() -> None:
    train = interactions([[0, 2]] * 5 + [[1, 3]] * 5, 4)
    old_first, new_first = interactions([[0, 1]] * 10, 4), interactions([[1, 0]] * 10, 4)
    model = EASE(1.0, decay=0.5).fit(train, seed=0)
    first, second = (model.score(history, np.array([0]))[0] for history in (old_first, new_first))
    assert first[3] > first[2]
    assert second[2] > second[3]
    assert first[3] == pytest.approx(2 * first[2])


@pytest.mark.parametrize(
    "build",
    [lambda: EASE(0.0), lambda: EASE(decay=1.5), lambda: ItemKNN(0), lambda: BPRMF(0), lambda: BPRMF(weight_decay=-1)],
)
def test_impossible_settings_are_refused(build: object) -> None:
    with pytest.raises(MmfedError, match="not valid"):
        build()  # type: ignore[operator]


def test_ease_refuses_a_catalogue_it_cannot_invert() -> None:
    with pytest.raises(MmfedError, match="30001 items are more than 30000"):
        EASE().fit(interactions([[0]], 30_001), seed=0)


def test_bpr_learns_who_likes_what() -> None:
    generator = np.random.default_rng(0)
    likes = [np.arange(10) if user % 2 else np.arange(10, 20) for user in range(40)]
    rows = [generator.permutation(mine)[:7].tolist() for mine in likes]
    train = interactions(rows, 20)
    scores = BPRMF(8, epochs=60, learning_rate=0.02, batch=64).fit(train, seed=0).score(train, np.arange(40))
    hits = [np.isin(np.argsort(-np.where(np.isin(np.arange(20), row), -np.inf, s))[:3], mine).mean()
            for row, s, mine in zip(rows, scores, likes, strict=True)]  # fmt: skip
    assert np.mean(hits) > 0.85  # unseen items of one's own half; chance is 3 / 13


def test_bpr_negatives_are_all_items_but_the_training_history() -> None:
    users = torch.tensor([0, 0, 1, 2]).repeat(500)
    held = torch.tensor([0 * 4 + 1, 0 * 4 + 2, 1 * 4 + 0, 2 * 4 + 0, 2 * 4 + 1, 2 * 4 + 2, 2 * 4 + 3])
    found = draw_negatives(users, held, 4, torch.Generator().manual_seed(0))
    drawn = {user: set(found[users == user].tolist()) for user in range(3)}
    assert drawn == {0: {0, 3}, 1: {1, 2, 3}, 2: {-1}}
    assert (found[users == 0] == 3).float().mean().item() == pytest.approx(0.5, abs=0.08)


def test_bpr_serves_only_its_own_users() -> None:
    model = BPRMF(epochs=1).fit(SMALL, seed=0)
    with pytest.raises(MmfedError, match="knows 4 users, the history has 1"):
        model.score(interactions([[0]], 6), np.array([0]))
    assert np.isfinite(model.score(SMALL, np.array([2]))).all()


STUDY = [
    # hit rate@10, recall@20, ndcg@10 of the feasibility study; None where it gives a range or nothing
    (Popularity(), 0.086, 0.127, 0.044),
    (ItemKNN(200), 0.121, 0.178, 0.063),
    (EASE(100.0), 0.138, 0.208, 0.070),
    (EASE(100.0, decay=0.9), 0.189, 0.296, 0.102),
]


@pytest.fixture(scope="class")
def movielens(shared_data: Path) -> Callable[[Baseline], RankingResult]:
    shop = load_movielens(shared_data / "ml100k_posters")
    split = split_shop(shop, SplitSection())
    genres = shop.catalogue.category
    assert genres is not None

    def evaluate(baseline: Baseline) -> RankingResult:
        fitted = baseline.fit(split.train, seed=0)
        return evaluate_ranking(
            lambda users: fitted.score(split.before_test, users),
            history=split.before_test,
            targets=split.test,
            item_count=shop.catalogue.size,
            train_counts=np.bincount(split.train.items, minlength=shop.catalogue.size),
            categories=genres.matrix,  # type: ignore[union-attr]
            bootstrap=0,
        )

    return evaluate


def binomial_errors(value: float, users: int = 943) -> float:
    return float(np.sqrt(value * (1 - value) / users))


@pytest.mark.slow
class TestMovieLens:
    """Fitted on train, scored with train + validation, within two binomial standard errors of the study."""

    @pytest.mark.parametrize(("baseline", "hit_rate", "recall", "ndcg"), STUDY, ids=lambda value: str(value)[:40])
    def test_agrees_with_the_study(self, movielens, baseline, hit_rate, recall, ndcg) -> None:
        result = movielens(baseline)
        assert result.users == 943
        assert abs(result["hit_rate@10"] - hit_rate) < 2 * binomial_errors(hit_rate)
        assert abs(result["recall@20"] - recall) < 2 * binomial_errors(recall)
        # NDCG varies less than a hit of the same mean: the binomial error is an upper bound.
        assert abs(result["ndcg@10"] - ndcg) < binomial_errors(ndcg)

    def test_coverage_and_diversity_agree_with_the_study(self, movielens) -> None:
        for baseline, coverage, diversity in ((Popularity(), 0.05, 0.74), (EASE(), 0.33, 0.73)):
            result = movielens(baseline)
            assert result["catalogue_coverage@10"] == pytest.approx(coverage, abs=0.01)
            assert result["ild_category@10"] == pytest.approx(diversity, abs=0.01)

    def test_bpr_is_in_the_range_of_the_study(self, movielens) -> None:
        found = movielens(BPRMF())["hit_rate@10"]
        assert 0.126 - 2 * binomial_errors(0.126) < found < 0.141 + 2 * binomial_errors(0.141)

    def test_random_is_at_chance(self, movielens) -> None:
        result = movielens(RandomBaseline())
        assert result["hit_rate@10"] == pytest.approx(10 / 1577, abs=3 * binomial_errors(10 / 1577))
