"""Rating metrics by hand, and the undefined correlation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.errors import MmfedError
from mmfed.evaluation.rating import evaluate_rating, mae, mse, pcc, rmse

PREDICTED = np.array([1.0, 2.0, 3.0, 4.0])
ACTUAL = np.array([1.0, 3.0, 3.0, 2.0])


def test_by_hand() -> None:
    assert mse(PREDICTED, ACTUAL) == 5 / 4
    assert rmse(PREDICTED, ACTUAL) == math.sqrt(5 / 4)
    assert mae(PREDICTED, ACTUAL) == 3 / 4
    # deviations -1.5 -.5 .5 1.5 and -1.25 .75 .75 -.25: covariance sum 1.5, variances 5 and 2.75
    assert pcc(PREDICTED, ACTUAL) == pytest.approx(1.5 / math.sqrt(5 * 2.75))


@pytest.mark.parametrize(
    ("predicted", "actual", "reason"),
    [
        (np.full(4, 3.0), ACTUAL, "every prediction is the same"),
        (PREDICTED, np.full(4, 3.0), "every rating is the same"),
        (PREDICTED[:1], ACTUAL[:1], "fewer than two pairs"),
    ],
)
def test_undefined_correlation_is_nan_with_a_reason(predicted: np.ndarray, actual: np.ndarray, reason: str) -> None:
    assert math.isnan(pcc(predicted, actual))
    estimate = evaluate_rating(predicted, actual, resamples=20)["pcc"]
    assert math.isnan(estimate.mean)
    assert estimate.reason == reason
    assert estimate.to_json()["mean"] is None


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_intervals_hold_the_figure_and_follow_users(seed: int) -> None:
    generator = np.random.default_rng(seed)
    users = generator.integers(0, 20, 200)
    actual = generator.integers(1, 6, 200).astype(float)
    # One error per user: 200 pairs carry only about 20 independent errors.
    predicted = actual + generator.normal(size=20)[users]
    by_user, by_pair = (evaluate_rating(predicted, actual, users=who, resamples=300) for who in (users, None))
    assert by_user["rmse"].mean == pytest.approx(math.sqrt(by_user["mse"].mean))
    assert by_user["mae"].mean <= by_user["rmse"].mean
    for name in ("mse", "rmse", "mae", "pcc"):
        low, high = by_user[name].low, by_user[name].high
        assert low is not None
        assert high is not None
        assert low <= by_user[name].mean <= high
    assert by_user["mse"].standard_error > 1.3 * by_pair["mse"].standard_error  # type: ignore[operator]


def test_correlation_does_not_cancel_far_from_zero() -> None:
    estimate = evaluate_rating(PREDICTED + 1e7, ACTUAL + 1e7, resamples=0)["pcc"]
    assert estimate.mean == pytest.approx(1.5 / math.sqrt(5 * 2.75))


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        (np.array([1.0, np.nan, 3.0, 4.0]), "pair 1"),
        (np.array([1.0]), "no matching"),
        (np.array([]), "no matching"),
    ],
)
def test_bad_input_is_named(predicted: np.ndarray, message: str) -> None:
    with pytest.raises(MmfedError, match=message):
        evaluate_rating(predicted, ACTUAL if len(predicted) else predicted)
