"""Lower bounds from guesses: known values, coverage under honest mechanisms, power against broken ones."""

import math

import numpy as np
import pytest
from scipy import stats

from mmfed.privacy.audit.canaries import (
    area_interval,
    area_under_curve,
    canary_bound,
    mean_interval,
    one_run_epsilon,
    one_run_p_value,
    rate_interval,
)
from mmfed.privacy.audit.recompute import gaussian_epsilon


def paper_p_value(m, r, v, eps, delta):
    """The paper's appendix D, with SciPy's binomial distribution: a second implementation."""
    q = 1 / (1 + math.exp(-eps))
    beta = stats.binom.sf(v - 1, r, q)
    alpha, total = 0.0, 0.0
    for i in range(1, v + 1):
        total += stats.binom.pmf(v - i, r, q)
        alpha = max(alpha, total / i)
    return min(beta + alpha * delta * 2 * m, 1)


@pytest.mark.parametrize("case", [(1000, 100, 100), (1000, 100, 60), (50, 50, 40), (10, 5, 0), (2000, 300, 299)])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-3])
def test_p_value_is_the_papers(case, epsilon, delta):
    m, r, v = case
    found = one_run_p_value(canaries=m, guesses=r, correct=v, epsilon=epsilon, delta=delta)
    assert found == pytest.approx(paper_p_value(m, r, v, epsilon, delta), rel=1e-9, abs=1e-300)


def test_the_known_value():
    assert one_run_epsilon(canaries=1000, guesses=100, correct=100, delta=1e-5) == pytest.approx(3.465, abs=5e-4)


def test_without_delta_all_right_is_a_binomial():
    """(e^eps / (1 + e^eps)) ** r = 0.05."""
    rate = 0.05 ** (1 / 40)
    found = one_run_epsilon(canaries=40, guesses=40, correct=40, delta=0.0)
    assert found == pytest.approx(math.log(rate / (1 - rate)))


@pytest.mark.parametrize(("guesses", "correct"), [(100, 50), (100, 0), (1, 1), (4, 4), (0, 0)])
def test_chance_proves_nothing(guesses, correct):
    assert one_run_epsilon(canaries=100, guesses=guesses, correct=correct, delta=1e-5) == 0


def test_impossible_counts_are_a_defect():
    with pytest.raises(ValueError, match="3 correct of 2"):
        one_run_p_value(canaries=5, guesses=2, correct=3, epsilon=1, delta=0)


def play(mu, canaries, seed):
    """Orthogonal canaries in a Gaussian mechanism of this mu: score = coin + noise / mu."""
    generator = np.random.default_rng(seed)
    included = generator.random(canaries) < 0.5
    return included + generator.standard_normal(canaries) / mu, included


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.5])
def test_honest_mechanisms_are_accused_no_more_often_than_said(mu):
    """400 honest runs: every bound exceeds the truth in about 5 % at most (the one-run bound far less)."""
    true = gaussian_epsilon(mu, 1e-5)
    bounds = [canary_bound(*play(mu, 200, seed), delta=1e-5) for seed in range(400)]
    for name in ("epsilon", "epsilon_of_trials"):
        assert sum(getattr(bound, name) > true for bound in bounds) <= 3
    limit = stats.binom.ppf(0.9999, 400, 0.05)
    assert sum(bound.mu > mu for bound in bounds) <= limit
    assert max(bound.epsilon for bound in bounds) < true


@pytest.mark.parametrize(("mu", "canaries"), [(0.5, 1000), (1.0, 300)])
def test_half_the_noise_is_told_from_all_of_it(mu, canaries):
    found = sum(canary_bound(*play(2 * mu, canaries, seed), delta=1e-5).mu > mu for seed in range(50))
    assert found >= 45


def test_no_noise_is_seen_by_every_bound():
    scores, included = play(1e9, 100, 1)
    bound = canary_bound(scores, included, delta=1e-5)
    assert bound.accuracy == 1
    assert bound.epsilon > 3
    assert bound.epsilon_of_trials > 2.5
    assert bound.mu > 2.5
    assert "100 canaries" in bound.sentence()


@pytest.mark.parametrize("included", [[True] * 5, [False] * 5])
def test_a_coin_that_fell_one_way(included):
    bound = canary_bound(np.zeros(5), np.array(included), delta=1e-5)
    assert (bound.epsilon_of_trials, bound.mu) == (0.0, 0.0)


def test_area_against_a_double_loop():
    generator = np.random.default_rng(4)
    a, b = generator.integers(0, 6, 40).astype(float), generator.integers(0, 5, 30).astype(float)
    slow = np.mean([(x > y) + (x == y) / 2 for x in a for y in b])
    assert area_under_curve(a, b) == pytest.approx(slow)
    assert math.isnan(area_under_curve(a, b[:0]))


def test_area_interval_covers():
    """The true AUC of two normals is inside in about 95 % of samples."""
    generator, true = np.random.default_rng(8), stats.norm.cdf(1 / math.sqrt(2))
    inside = 0
    for _ in range(400):
        _, low, high = area_interval(generator.normal(1, 1, 60), generator.normal(0, 1, 50))
        inside += low <= true <= high
    assert 360 <= inside <= 397


def test_perfect_separation_has_no_interval_of_width_zero():
    area, low, high = area_interval(np.ones(10), np.zeros(10))
    assert (area, high) == (1.0, 1.0)
    assert low < 1


def test_intervals_of_rates_and_means():
    low, high = rate_interval(7, 20)
    assert (low, high) == pytest.approx((0.1539, 0.5922), abs=1e-4)
    assert rate_interval(0, 10)[0] == 0
    assert rate_interval(10, 10)[1] == 1
    values = [1.0, 2.0, 4.0, math.nan]
    expected = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem(values[:3]))
    assert mean_interval(values) == pytest.approx((7 / 3, *expected))
    assert math.isnan(mean_interval([])[0])
