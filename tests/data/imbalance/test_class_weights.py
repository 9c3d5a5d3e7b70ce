"""Class weights: totals, scale, absent classes."""

from __future__ import annotations

import numpy as np
import pytest

from mmfed.data.imbalance.class_weights import class_weights
from mmfed.errors import MmfedError

LABELS = np.repeat([0, 1, 3], [90, 9, 1])


@pytest.mark.parametrize("weighting", ["none", "balanced", "effective-number"])
def test_mean_weight_is_one_and_absent_classes_weigh_nothing(weighting) -> None:
    weights = class_weights(LABELS, 5, weighting=weighting)
    assert weights[LABELS].mean() == pytest.approx(1)
    assert weights[[2, 4]].tolist() == [0, 0]


def test_balanced_as_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    expected = sklearn.compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=LABELS)
    assert class_weights(LABELS, 4)[[0, 1, 3]] == pytest.approx(expected)


def test_effective_number_lies_between() -> None:
    equal, balanced = class_weights(LABELS, 4, weighting="none"), class_weights(LABELS, 4)
    effective = class_weights(LABELS, 4, weighting="effective-number", beta=0.9)
    assert equal[3] < effective[3] < balanced[3]
    assert effective[1] / effective[3] == pytest.approx((1 - 0.9) / (1 - 0.9**9))
    assert class_weights(LABELS, 4, weighting="effective-number", beta=0.0)[[0, 1, 3]].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("labels", "options"),
    [([], {}), ([-1, 0], {}), ([0, 4], {}), ([0], {"beta": 1.0}), ([0], {"beta": np.nan}), ([0], {"weighting": "x"})],
)
def test_bad_input_is_refused(labels: list[int], options) -> None:
    with pytest.raises(MmfedError):
        class_weights(np.array(labels, dtype=int), 4, **options)
