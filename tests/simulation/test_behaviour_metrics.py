"""Figures of a classifier against scikit-learn, and intervals over users."""

from __future__ import annotations

import numpy as np
import pytest

from mmfed.errors import MmfedError
from mmfed.simulation.behaviour_metrics import behaviour_metrics

CLASSES = ("view", "cart", "buy")


def sample(rows: int, *, seed: int = 0, coarse: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.choice(3, size=rows, p=[0.7, 0.2, 0.1])
    scores = generator.random((rows, 3)) + 0.8 * np.eye(3)[labels]
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    return np.round(probabilities, 1) if coarse else probabilities, labels, generator.integers(0, 15, rows)


@pytest.mark.parametrize("coarse", [False, True], ids=["distinct scores", "ties"])
def test_figures_as_scikit_learn(coarse: bool) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    probabilities, labels, users = sample(300, coarse=coarse)
    found = behaviour_metrics(probabilities, labels, users, CLASSES, resamples=0)
    predicted = probabilities.argmax(axis=1)
    assert found["accuracy"].mean == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert found["balanced_accuracy"].mean == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    assert found["macro_f1"].mean == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    recalls = metrics.recall_score(labels, predicted, average=None)
    for index, name in enumerate(CLASSES):
        assert found[f"recall/{name}"].mean == pytest.approx(recalls[index])
        expected = metrics.average_precision_score(labels == index, probabilities[:, index])
        assert found[f"average_precision/{name}"].mean == pytest.approx(expected)


def test_perfect_and_constant_predictions() -> None:
    labels = np.array([0, 0, 1, 2])
    perfect = behaviour_metrics(np.eye(3)[labels], labels, np.arange(4), CLASSES, resamples=0)
    assert {estimate.mean for estimate in perfect.values()} == {1.0}
    constant = behaviour_metrics(np.tile([0.5, 0.3, 0.2], (4, 1)), labels, np.arange(4), CLASSES, resamples=0)
    assert constant["balanced_accuracy"].mean == pytest.approx(1 / 3)
    assert constant["macro_f1"].mean == pytest.approx((2 * 2 / 6) / 3)
    assert constant["average_precision/buy"].mean == pytest.approx(1 / 4)


def test_intervals_are_over_users_and_not_over_rows() -> None:
    """Everything a user does is alike: 12 users say as much in 12 rows as in 1200."""
    right = np.arange(12) % 2
    few = behaviour_metrics(np.eye(3)[right], np.ones(12, int), np.arange(12), CLASSES, resamples=2000)
    many = behaviour_metrics(
        np.eye(3)[np.repeat(right, 100)], np.ones(1200, int), np.repeat(np.arange(12), 100), CLASSES, resamples=2000
    )
    assert few["accuracy"].mean == many["accuracy"].mean == 0.5
    widths = [one["accuracy"].high - one["accuracy"].low for one in (few, many)]  # type: ignore[operator]
    assert widths[0] == widths[1]
    # Binomial with 12 draws: the middle 95 % are 3 to 9 hits, give or take one.
    assert widths[0] == pytest.approx(0.5, abs=0.1)


def test_a_class_nobody_tests_is_undefined_and_left_out_of_means() -> None:
    labels = np.array([0, 0, 1, 1])
    found = behaviour_metrics(np.eye(3)[[0, 1, 1, 1]], labels, np.arange(4), CLASSES, resamples=50)
    assert not found["recall/buy"].defined
    assert found["recall/buy"].reason == found["average_precision/buy"].reason == "no test row of the class buy"
    assert found["balanced_accuracy"].mean == pytest.approx(0.75)


def test_blocks_of_resamples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities, labels, users = sample(100)
    whole = behaviour_metrics(probabilities, labels, users, CLASSES, resamples=64)
    monkeypatch.setattr("mmfed.simulation.behaviour_metrics.RESAMPLE_CELLS", 700)
    assert behaviour_metrics(probabilities, labels, users, CLASSES, resamples=64) == whole


def test_one_user_gets_no_interval() -> None:
    found = behaviour_metrics(np.eye(3)[[0, 1]], np.array([0, 0]), np.zeros(2, int), CLASSES)
    assert found["accuracy"].low is None
    assert "one user only" in found["accuracy"].reason


@pytest.mark.parametrize(
    "probabilities", [np.zeros((0, 3)), np.full((2, 2), 0.5), np.full((3, 3), 0.3), np.full((2, 3), np.nan)]
)
def test_bad_input_is_refused(probabilities: np.ndarray) -> None:
    rows = min(len(probabilities), 2)
    with pytest.raises(MmfedError):
        behaviour_metrics(probabilities, np.zeros(rows, int), np.zeros(rows, int), CLASSES)
