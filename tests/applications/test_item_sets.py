"""Sets of items: the mean of the best, and exactly what chance gives."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfed.applications.item_sets import best_items, best_mean, chance_weights, standardised
from mmfed.errors import MmfedError


@given(st.integers(1, 9), st.data(), st.integers(1, 4))
def test_chance_is_the_mean_over_every_set_of_that_size(items: int, data: st.DataObject, best: int) -> None:
    size = data.draw(st.integers(1, items))
    scores = np.random.default_rng(items).normal(size=items)
    every = [best_mean(scores[None, list(chosen)], best)[0] for chosen in combinations(range(items), size)]
    weights = chance_weights(items, size, best)
    assert weights.sum() == pytest.approx(1)
    assert weights @ -np.sort(-scores) == pytest.approx(np.mean(every), abs=1e-9)


def test_chance_in_a_large_catalogue_is_finite() -> None:
    for size in (1, 2, 3, 500, 199_999, 200_000):
        weights = chance_weights(200_000, size)
        assert np.isfinite(weights).all()
        assert weights.sum() == pytest.approx(1)
    assert chance_weights(200_000, 200_000)[:3] == pytest.approx([1 / 3] * 3)
    assert chance_weights(200_000, 1) == pytest.approx(1 / 200_000)


def test_best_mean_takes_what_there_is() -> None:
    scores = np.array([[5.0, 1.0, 3.0, 2.0], [4.0, -np.inf, -np.inf, 2.0], [-np.inf] * 4])
    assert best_mean(scores, 3).tolist() == [10 / 3, 3.0, -np.inf]
    assert best_mean(scores[:, :0], 3).tolist() == [-np.inf] * 3


def test_standardised_leaves_out_what_cannot_be_offered() -> None:
    found = standardised(np.array([[1.0, 3.0, -np.inf], [2.0, 2.0, 2.0], [-np.inf] * 3], dtype=np.float32))
    assert found.tolist() == [[-1.0, 1.0, -np.inf], [0.0, 0.0, 0.0], [-np.inf] * 3]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_diverged_scores_are_refused(bad: float) -> None:
    with pytest.raises(MmfedError, match="row 1, item 0"):
        standardised(np.array([[0.0, 1.0], [bad, 1.0]]))


def test_best_items_never_names_what_cannot_be_offered() -> None:
    scores = np.array([0.0, 2.0, -np.inf, 1.0, 9.0])
    assert best_items(scores, np.array([0, 1, 2, 3]), seed=0, best=2).tolist() == [1, 3]
    assert best_items(scores, np.array([2, 0]), seed=0).tolist() == [0]
    firsts = {int(best_items(np.zeros(8), np.arange(8), seed=seed)[0]) for seed in range(20)}
    assert len(firsts) > 1
    with pytest.raises(MmfedError, match="best = 0"):
        best_items(scores, np.array([0]), seed=0, best=0)
