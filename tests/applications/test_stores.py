"""Stores ranked for a person: by hand, and on a planted taste for one store's style."""

from __future__ import annotations

import numpy as np
import pytest

from mmfed.applications.stores import recommend_stores, store_scores
from mmfed.data.schema import Categorical
from mmfed.errors import MmfedError
from mmfed.rng import numpy_generator
from mmfed.types import FloatArray

STORES, EACH, USERS, WIDTH = 6, 10, 300, 8


def test_score_is_the_mean_of_the_best_standardised_items() -> None:
    scores = np.array([[4.0, 2.0, 0.0, -2.0, -4.0, 0.0]])
    deviation = scores.std()
    found = store_scores(scores, np.array([0, 0, 0, 1, 2, -1]), 4, best=2)
    assert found[0].tolist() == pytest.approx([3 / deviation, -2 / deviation, -4 / deviation, -np.inf])


def test_scale_and_shift_of_a_persons_scores_do_not_matter() -> None:
    scores = numpy_generator(0, "stores").normal(size=(5, 12))
    codes = np.arange(12) % 3
    assert store_scores(7 * scores + 100, codes, 3) == pytest.approx(store_scores(scores, codes, 3))


def test_a_store_that_is_touched_throughout_is_not_listed() -> None:
    scores = np.array([[-np.inf, -np.inf, 1.0, 0.0]])
    lists, _ = recommend_stores(scores, Categorical(np.array([0, 0, 1, 2]), ("a", "b", "c")), k=5, seed=0)
    assert lists.tolist() == [[1, 2, -1, -1, -1]]


def test_equal_stores_stand_by_their_names_not_their_places() -> None:
    names = tuple("abcdefgh")
    codes, scores = np.arange(8), np.zeros((1, 8))
    there, _ = recommend_stores(scores, Categorical(codes, names), k=8, seed=3)
    back, _ = recommend_stores(scores, Categorical(codes, names[::-1]), k=8, seed=3)
    assert [names[one] for one in there[0]] == [names[::-1][one] for one in back[0]]
    assert there[0].tolist() != list(range(8))


@pytest.mark.parametrize("store", [None, Categorical(np.array([0, 0, -1]), ("a", "b"))])
def test_a_single_store_is_refused(store: Categorical | None) -> None:
    with pytest.raises(MmfedError, match="single store"):
        recommend_stores(np.zeros((1, 3)), store, k=1, seed=0)


def planted() -> tuple[FloatArray, Categorical, np.ndarray]:
    """Item scores of people who bought in one store; items of a store share a style, blurred."""
    generator = numpy_generator(0, "planted stores")
    codes = generator.permutation(np.repeat(np.arange(STORES), EACH))
    styles = np.linalg.qr(generator.normal(size=(WIDTH, WIDTH)))[0][:STORES]
    content = styles[codes] + 0.3 * generator.normal(size=(len(codes), WIDTH))
    loved = generator.integers(STORES, size=USERS)
    scores = np.empty((USERS, len(codes)))
    for user, store in enumerate(loved):
        bought = generator.choice(np.flatnonzero(codes == store), 3, replace=False)
        scores[user] = content @ content[bought].mean(0)
        scores[user, bought] = -np.inf
    return scores, Categorical(codes, tuple(f"s{one}" for one in range(STORES))), loved


def test_people_get_the_store_of_their_style_first_and_not_with_others_scores() -> None:
    scores, store, loved = planted()
    first = recommend_stores(scores, store, k=1, seed=0)[0][:, 0]
    assert np.mean(first == loved) > 0.95
    # The popularity of a store is the best that one list for everybody can do.
    assert np.mean(first == loved) > 2 * np.bincount(loved).max() / USERS
    shuffled = scores[numpy_generator(1, "shuffled").permutation(USERS)]
    hits = np.mean(recommend_stores(shuffled, store, k=1, seed=0)[0][:, 0] == loved)
    assert abs(hits - 1 / STORES) < 4 * np.sqrt((1 / STORES) * (1 - 1 / STORES) / USERS)
