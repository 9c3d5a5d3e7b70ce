"""Intervals: coverage of the bootstrap, paired differences, seeds."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from mmfed.errors import MmfedError
from mmfed.evaluation.intervals import Estimate, bootstrap_estimates, resampling_weights
from mmfed.evaluation.result import RankingResult, combine_seeds, paired_difference
from mmfed.rng import numpy_generator


def result_of(
    per_user: dict[str, np.ndarray], protocol: str = "full", gini: float = 0.5, first: int = 0
) -> RankingResult:
    users = len(next(iter(per_user.values())))
    return RankingResult(
        metrics=bootstrap_estimates(per_user, resamples=100, seed=0)
        | {"gini@10": Estimate(gini, gini - 0.1, gini + 0.1, users)},
        per_user=per_user,
        evaluated_users=np.arange(first, first + users),
        lists=None,
        users=users,
        users_left_out=0,
        protocol=protocol,  # type: ignore[arg-type]
    )


def test_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    inside = narrow = 0
    for trial in range(300):
        estimate = bootstrap_estimates({"x": generator.random(80) < 0.3}, resamples=300, seed=trial)["x"]
        assert estimate.low is not None
        assert estimate.high is not None
        inside += estimate.low <= 0.3 <= estimate.high
        centre, half = estimate.mean, (estimate.high - estimate.low) / 4
        narrow += centre - half <= 0.3 <= centre + half
    assert 0.90 <= inside / 300 <= 0.99
    assert narrow / 300 < 0.80  # half the width would be seen


def test_undefined_users_are_left_out_of_mean_and_interval() -> None:
    values = np.array([1.0, np.nan, 3.0, np.nan])
    estimate = bootstrap_estimates({"x": values, "none": np.full(4, np.nan)}, resamples=200, seed=0)
    assert estimate["x"].mean == 2
    assert estimate["x"].users == 2
    assert (estimate["x"].low, estimate["x"].high) == (1, 3)
    assert not estimate["none"].defined
    assert estimate["none"].reason
    json.dumps(estimate["none"].to_json(), allow_nan=False)


def test_no_interval_says_why() -> None:
    assert bootstrap_estimates({"x": np.ones(3)}, resamples=0, seed=0)["x"].reason == "no resamples were asked for"
    assert "one user" in bootstrap_estimates({"x": np.ones(1)}, resamples=10, seed=0)["x"].reason


def test_bootstrap_is_seeded() -> None:
    values = {"x": np.random.default_rng(0).random(50)}
    first, again, other = (bootstrap_estimates(values, resamples=100, seed=seed)["x"] for seed in (1, 1, 2))
    assert first == again
    assert first.low != other.low


def test_weights_are_resamples() -> None:
    weights = resampling_weights(20, 500, numpy_generator(0, "test"))
    assert (weights.sum(axis=1) == 20).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(20), abs=0.3)
    assert (weights == 0).mean() == pytest.approx((1 - 1 / 20) ** 20, abs=0.03)


def test_pairing_sees_a_difference_that_separate_intervals_hide() -> None:
    generator = np.random.default_rng(0)
    base = generator.random(200)
    better = base + 0.02 + 0.01 * generator.normal(size=200)
    first, second = result_of({"ndcg@10": better}), result_of({"ndcg@10": base})
    difference = paired_difference(first, second)["ndcg@10"]
    assert difference.low is not None
    assert difference.low > 0
    assert difference.mean == pytest.approx((better - base).mean())
    assert first.metrics["ndcg@10"].low < second.metrics["ndcg@10"].high  # type: ignore[operator]
    backwards = paired_difference(second, first)["ndcg@10"]
    assert backwards.mean == -difference.mean


def test_only_the_same_users_and_protocol_are_compared() -> None:
    ours = result_of({"ndcg@10": np.ones(5)})
    with pytest.raises(MmfedError, match="protocols"):
        paired_difference(ours, result_of({"ndcg@10": np.ones(5)}, protocol="sampled@99"))
    with pytest.raises(MmfedError, match="different users"):
        paired_difference(ours, result_of({"ndcg@10": np.ones(5)}, first=1))
    with pytest.raises(MmfedError, match="different users"):
        combine_seeds([ours, result_of({"ndcg@10": np.ones(4)})])
    with pytest.raises(MmfedError, match="no result"):
        combine_seeds([])


def test_seeds_are_averaged_and_widen_the_interval() -> None:
    generator = np.random.default_rng(0)
    users = generator.random(300)
    close = [result_of({"x@10": users}, gini=0.5) for _ in range(3)]
    apart = [result_of({"x@10": users + shift}, gini=0.5 + shift) for shift in (-0.2, 0.0, 0.2)]
    calm, wild = combine_seeds(close), combine_seeds(apart)
    assert calm["x@10"] == pytest.approx(users.mean())
    assert wild["x@10"] == pytest.approx(users.mean())
    assert calm.counts["seeds"] == 3
    error, single = calm.metrics["x@10"].standard_error, close[0].metrics["x@10"].standard_error
    assert error == pytest.approx(single, rel=0.3)
    assert wild.metrics["x@10"].standard_error > 2 * error  # type: ignore[operator]
    assert wild["gini@10"] == pytest.approx(0.5)
    within, between = 0.1 / 1.959964, math.sqrt(0.04 / 3)
    assert wild.metrics["gini@10"].standard_error == pytest.approx(math.hypot(within, between), rel=1e-4)
    assert combine_seeds(close[:1]) is close[0]
