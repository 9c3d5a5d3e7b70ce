"""The recommender of a noised release: its score by hand, its learning, and the worst of noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from test_denoise import ITEMS, noise, shop

from mmfed.models.band_ease import ease_weights, standardised
from mmfed.models.denoise import denoised_cooccurrence, expected_diagonal
from mmfed.models.noised_ease import (
    CONTENT,
    CONTENT_ALONE,
    CONTENT_DECAY,
    POPULARITY,
    POPULARITY_ALONE,
    NoisedEase,
    NoisedPairs,
    most_popular,
    noised_ease,
)


def alike(content: np.ndarray) -> np.ndarray:
    unit = content / np.linalg.norm(content, axis=1, keepdims=True)
    return unit @ unit.T


def recent(items: list[int], decay: float) -> sparse.csr_array:
    row = np.zeros((1, ITEMS))
    for place, item in enumerate(items):
        row[0, item] = decay ** (len(items) - 1 - place)
    return sparse.csr_array(row)


def parts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    weights, kernel = generator.standard_normal((2, ITEMS, ITEMS))
    return weights, np.exp(generator.standard_normal(ITEMS)), kernel


def test_the_score_is_the_sum_of_its_parts():
    weights, popularity, kernel = parts()
    found = NoisedEase(weights, popularity=popularity, kernel=kernel, history_decay=0.9)
    pairs, near = (sum(decay ** (2 - t) * rows[i] for t, i in enumerate([4, 9, 2]))
                   for decay, rows in ((0.9, weights), (CONTENT_DECAY, kernel)))  # fmt: skip
    expected = (
        standardised(pairs[None])
        + POPULARITY * standardised(np.log(popularity)[None])
        + CONTENT * standardised(near[None])
    )
    np.testing.assert_allclose(found.of_recent(recent([4, 9, 2], 0.9)), expected, atol=1e-10)


def test_without_pairs_popularity_and_content_decide():
    _, popularity, kernel = parts()
    found = NoisedEase(None, popularity=popularity, kernel=kernel, history_decay=0.9)
    expected = POPULARITY_ALONE * standardised(np.log(popularity)[None]) + CONTENT_ALONE * standardised(kernel[[7]])
    np.testing.assert_allclose(found.of_recent(recent([7], 0.9)), expected, atol=1e-10)
    assert not found.weights.any()


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_who_did_nothing_gets_what_is_popular(decay):
    weights, popularity, kernel = parts()
    found = NoisedEase(weights, popularity=popularity, kernel=kernel, history_decay=decay)
    scores = found.of_recent(sparse.csr_array((1, ITEMS)))[0]
    assert np.array_equal(np.argsort(scores), np.argsort(popularity))


def test_made_up_histories_begin_with_what_is_popular():
    weights, popularity, kernel = parts()
    starts = NoisedEase(weights, popularity=popularity, kernel=kernel, history_decay=0.9).starts()
    np.testing.assert_allclose(starts, popularity / popularity.sum())


@pytest.mark.parametrize("denoising", ["spectrum", "threshold"])
def test_people_are_shown_their_own_group(denoising):
    exact, popularity, content = shop()
    deviation = 0.15 if denoising == "threshold" else 1.0
    model = noised_ease(
        counts=popularity,
        pairs=NoisedPairs(exact + noise(ITEMS, deviation), np.arange(ITEMS), deviation * np.sqrt(2)),
        content=content,
        kernel=np.zeros((ITEMS, ITEMS)),
        ridge=5.0,
        history_decay=0.9,
        denoising=denoising,
    )
    hits = []
    for item in range(ITEMS):
        scores = (recent([item], 0.9) @ model.weights)[0]
        hits.append(np.mean(np.argsort(-scores)[:5] % 4 == item % 4))
    assert np.mean(hits) > 0.5, "a quarter is chance"


def test_pairs_of_some_items_leave_the_others_alone():
    exact, popularity, content = shop()
    items = most_popular(popularity, 40)
    model = noised_ease(
        counts=popularity,
        pairs=NoisedPairs(exact[np.ix_(items, items)], items, 1e-6),
        content=content,
        kernel=alike(content),
        ridge=5.0,
        history_decay=0.9,
    )
    outside = np.setdiff1d(np.arange(ITEMS), items)
    assert not model.weights[outside].any()
    assert not model.weights[:, outside].any()
    assert model.weights[np.ix_(items, items)].any()
    assert np.isfinite(model.of_recent(recent([int(outside[0])], 0.9))).all()
    assert set(np.flatnonzero(model.graph(3).weights.any(1))) <= set(items.tolist())


def test_the_most_popular_are_in_order_of_the_catalogue():
    assert most_popular(np.array([1.0, 5.0, 3.0, 4.0]), 2).tolist() == [1, 3]
    assert most_popular(np.array([1.0, 5.0]), 10).tolist() == [0, 1]


@pytest.mark.parametrize("denoising", ["spectrum", "threshold"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_noise_alone_never_breaks_it(denoising, scale):
    model = noised_ease(
        counts=np.ones(ITEMS),
        pairs=NoisedPairs(noise(ITEMS, 5 * scale), np.arange(ITEMS), scale),
        content=np.zeros((ITEMS, 0)),
        kernel=np.zeros((ITEMS, ITEMS)),
        ridge=0.1,
        history_decay=1.0,
        denoising=denoising,
    )
    assert np.isfinite(model.of_recent(recent([1, 2], 1.0))).all()


def test_the_ridge_is_as_asked_where_the_matrix_allows_it():
    exact, popularity, content = shop()
    model = noised_ease(
        counts=popularity,
        pairs=NoisedPairs(exact, np.arange(ITEMS), 1e-9),
        content=content,
        kernel=np.zeros((ITEMS, ITEMS)),
        ridge=7.0,
        history_decay=0.9,
    )
    gram = denoised_cooccurrence(exact, 1e-9 / np.sqrt(2), popularity, content)
    np.fill_diagonal(gram, expected_diagonal(np.diag(exact), popularity))
    np.testing.assert_allclose(model.weights, ease_weights(gram, 7.0), atol=1e-9)


def test_items_that_came_later_are_as_popular_as_their_content_says():
    generator = np.random.default_rng(0)
    content = generator.standard_normal((ITEMS, 3))
    truth = np.exp(content @ [1.0, -0.5, 0.2])
    cold = np.arange(ITEMS) % 10 == 0
    found = NoisedEase(None, popularity=np.where(cold, 1e-3, truth), kernel=np.zeros((ITEMS, ITEMS)), history_decay=0.9)
    kept = found.popularity.copy()
    later = found.without_counts_of(cold, content)
    np.testing.assert_allclose(later.popularity[~cold], found.popularity[~cold], rtol=1e-12)
    np.testing.assert_allclose(later.popularity[cold], np.log(truth)[cold], atol=0.1)
    assert np.array_equal(found.popularity, kept), "the original stays"
    order = np.argsort(later.of_recent(sparse.csr_array((1, ITEMS)))[0])
    assert np.array_equal(order, np.argsort(later.popularity))
