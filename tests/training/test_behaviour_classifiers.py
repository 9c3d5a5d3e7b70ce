"""Every classifier of the next action: probabilities, learning, rare classes, repeatability."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from mmfed.data.behaviour import BehaviourTable
from mmfed.data.schema import Action
from mmfed.errors import MmfedError
from mmfed.training.behaviour import BehaviourMethod, ClassifierName, fit_behaviour

pytest.importorskip("sklearn")
pytest.importorskip("imblearn")
pytest.importorskip("xgboost")

NAMES: tuple[ClassifierName, ...] = get_args(ClassifierName)
LEARNING: tuple[ClassifierName, ...] = ("logistic", "adaboost", "xgboost")


def table(rows: int = 400, *, seed: int = 0, labels: np.ndarray | None = None) -> BehaviourTable:
    """A categorical column that decides class 2 (rare), a numeric one that leans to class 1, and a constant."""
    generator = np.random.default_rng(seed)
    lean, last = generator.normal(size=rows), generator.choice(3, size=rows, p=[0.6, 0.34, 0.06])
    found = np.where(last == 2, 2, (lean + generator.normal(size=rows) * 0.3 > 1).astype(int))
    return BehaviourTable(
        values=np.column_stack([last.astype(float), lean, np.ones(rows)]),
        names=("last", "lean", "constant"),
        levels=np.array([3, 0, 0]),
        labels=found if labels is None else labels,
        classes=(Action.VIEW, Action.CART, Action.BUY),
        groups=np.repeat(np.arange(rows // 10), 10),
        places=np.arange(rows),
    )


TRAIN, TEST = table(), table(seed=1)


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_probabilities(name: ClassifierName) -> None:
    classifier, rows = fit_behaviour(TRAIN, BehaviourMethod(classifier=name, trees=5), seed=0)
    found = classifier.probabilities(TEST.values)
    assert found.shape == (400, 3)
    assert (found >= 0).all()
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert len(rows) == 400
    assert classifier.probabilities(TEST.values[:0]).shape == (0, 3)
    again, _ = fit_behaviour(TRAIN, BehaviourMethod(classifier=name, trees=5), seed=0)
    assert np.array_equal(again.probabilities(TEST.values), found)


@pytest.mark.parametrize("name", LEARNING)
def test_what_can_be_learnt_is_learnt(name: ClassifierName) -> None:
    classifier, _ = fit_behaviour(TRAIN, BehaviourMethod(classifier=name, weighting="balanced", trees=30), seed=0)
    right = classifier.probabilities(TEST.values).argmax(axis=1) == TEST.labels
    assert min(right[TEST.labels == label].mean() for label in range(3)) > 0.8


def test_baselines_are_the_frequencies() -> None:
    overall, _ = fit_behaviour(TRAIN, BehaviourMethod(classifier="majority"), seed=0)
    counts = np.bincount(TRAIN.labels) + 1
    assert overall.probabilities(TEST.values[:1])[0] == pytest.approx(counts / counts.sum())
    by_last, _ = fit_behaviour(TRAIN, BehaviourMethod(classifier="last-action"), seed=0)
    found = by_last.probabilities(np.array([[2.0, 0.0, 1.0], [0.0, 0.0, 1.0]]))
    assert found[0].argmax() == 2
    ones = TRAIN.labels[TRAIN.values[:, 0] == 0] == 1
    assert found[1, 1] == pytest.approx(ones.mean(), abs=0.01)


@pytest.mark.parametrize(
    "options",
    [{"weighting": "balanced"}, {"resampling": "random-over"}, {"resampling": "random-under"}, {"resampling": "smote"}],
)
def test_rare_classes_gain_recall(options) -> None:
    noisy = table(labels=np.where(np.random.default_rng(5).random(400) < 0.12, 1, 0) * (TRAIN.values[:, 1] > -0.5))
    plain, _ = fit_behaviour(noisy, BehaviourMethod(classifier="xgboost", trees=10, depth=2), seed=0)
    helped, rows = fit_behaviour(noisy, BehaviourMethod(classifier="xgboost", trees=10, depth=2, **options), seed=0)
    rare = noisy.labels == 1
    recall = [(one.probabilities(noisy.values).argmax(1) == 1)[rare].mean() for one in (plain, helped)]
    assert recall[1] > recall[0] + 0.2
    assert (len(rows) != 400) == ("resampling" in options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("present", [[1], [0, 2]])
def test_classes_without_training_rows(name: ClassifierName, present: list[int]) -> None:
    labels = np.resize(present, 400)
    classifier, _ = fit_behaviour(table(labels=labels), BehaviourMethod(classifier=name, trees=5), seed=0)
    found = classifier.probabilities(TEST.values)
    absent = [label for label in range(3) if label not in present]
    assert (found[:, absent].max(axis=1) < found[:, present].max(axis=1)).all()


def test_names_say_what_was_done() -> None:
    method = BehaviourMethod(
        classifier="xgboost", weighting="balanced", resampling="smote", pool="device", most_copies=3
    )
    assert method.name == "XGBoost + class weights + SMOTE on each device, at most 3 copies"


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (TRAIN.keep(np.zeros(400, dtype=bool)), {}),
        (TRAIN, {"trees": 0}),
        (TRAIN, {"depth": 0}),
        (TRAIN, {"classifier": "oracle"}),
    ],
)
def test_bad_settings_are_refused(rows: BehaviourTable, options) -> None:
    with pytest.raises(MmfedError):
        fit_behaviour(rows, BehaviourMethod(**({"classifier": "xgboost"} | options)), seed=0)
