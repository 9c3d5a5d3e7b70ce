"""Biases of cold items from content, against an independent leave-one-out search."""

from __future__ import annotations

import numpy as np
import pytest

from mmfed.models.cold_bias import RIDGES, predicted_from_content


def by_hand(values: np.ndarray, content: np.ndarray, cold: np.ndarray) -> np.ndarray:
    """Explicit leave-one-out over every ridge, the mean alone among the choices."""

    def fitted(rows: np.ndarray, asked: np.ndarray, ridge: float | None) -> np.ndarray:
        mean, centre = values[rows].mean(), content[rows].mean(0)
        if ridge is None:
            return np.full(len(asked), mean)
        x = content[rows] - centre
        weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (values[rows] - mean))
        return mean + (content[asked] - centre) @ weights

    warm = np.flatnonzero(~cold)
    errors = {}
    for ridge in (None, *RIDGES):
        left_out = [values[i] - fitted(warm[warm != i], np.array([i]), ridge)[0] for i in warm]
        errors[ridge] = np.mean(np.square(left_out))
    found = values.copy()
    found[cold] = fitted(warm, np.flatnonzero(cold), min(errors, key=lambda ridge: errors[ridge]))
    return found


@pytest.mark.parametrize("noise", [0.01, 1.0, 30.0])
def test_agrees_with_an_explicit_search(noise: float) -> None:
    generator = np.random.default_rng(3)
    content = generator.normal(size=(60, 5))
    values = 4 + content @ generator.normal(size=5) + noise * generator.normal(size=60)
    cold = np.arange(60) % 6 == 0
    values[cold] = 1e6  # never read
    found = predicted_from_content(values, content, cold)
    assert np.array_equal(found[~cold], values[~cold])
    assert found[cold] == pytest.approx(by_hand(values, content, cold)[cold], rel=1e-9)


def test_without_content_or_warm_items_the_mean_or_nothing() -> None:
    values, cold = np.array([1.0, 3.0, 9.0]), np.array([False, False, True])
    assert predicted_from_content(values, None, cold).tolist() == [1, 3, 2]
    assert predicted_from_content(values, np.zeros((3, 0)), cold).tolist() == [1, 3, 2]
    assert predicted_from_content(values, np.ones((3, 2)), cold).tolist() == [1, 3, 2]
    assert predicted_from_content(values, np.ones((3, 2)), np.ones(3, dtype=bool)).tolist() == values.tolist()
    assert predicted_from_content(values, np.ones((3, 2)), np.zeros(3, dtype=bool)).tolist() == values.tolist()
