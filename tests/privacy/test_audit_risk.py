"""The bounds on attacks against the optimal attack on a Gaussian, and against each other."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mmfed.privacy.audit.recompute import gaussian_epsilon
from mmfed.privacy.audit.risk import (
    FALSE_POSITIVE_RATES,
    attack_risk,
    deltas_for,
    loss_bound,
    percent,
    posterior_bound,
    sentences,
    true_positive_bound,
)


def profile_of(mu, failure=1e-5):
    return {delta: gaussian_epsilon(mu, delta) for delta in deltas_for(failure)}


@pytest.mark.parametrize("mu", [0.1, 0.7, 2.0, 5.0])
def test_no_attack_on_a_gaussian_does_better(mu):
    """The likelihood-ratio test on N(0, 1) against N(mu, 1), played out."""
    risk = attack_risk(profile_of(mu), failure=1e-5)
    exact = attack_risk(profile_of(mu), failure=1e-5, mu=mu)
    generator = np.random.default_rng(3)
    out, member = generator.standard_normal(400_000), mu + generator.standard_normal(400_000)
    for rate in FALSE_POSITIVE_RATES:
        found = float((member > np.quantile(out, 1 - rate)).mean())
        assert exact.true_positive_rate[rate] == pytest.approx(found, abs=0.01)
        assert risk.true_positive_rate[rate] >= exact.true_positive_rate[rate] - 1e-9
    assert exact.advantage == pytest.approx(2 * stats.norm.cdf(mu / 2) - 1)
    assert exact.advantage - 1e-9 <= risk.advantage <= exact.advantage * 1.25 + 1e-3
    assert exact.area == pytest.approx(stats.norm.cdf(mu / math.sqrt(2)))
    assert exact.area <= risk.area <= 1


@pytest.mark.parametrize("mu", [0.5, 2.0])
@pytest.mark.parametrize("failure", [1e-2, 1e-5])
def test_the_loss_passes_its_bound_no_more_often_than_said(mu, failure):
    """The loss of a Gaussian is N(mu^2 / 2, mu^2); the header's own epsilon would not be a bound."""
    bound = loss_bound(profile_of(mu, failure), failure)
    assert stats.norm.sf((bound - mu**2 / 2) / mu) <= failure
    naive = gaussian_epsilon(mu, failure)
    assert stats.norm.sf((naive - mu**2 / 2) / mu) > failure


@given(st.floats(0, 20), st.floats(0, 0.9), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_trade_off_is_symmetric_and_never_below_guessing(epsilon, delta, rate):
    bound = true_positive_bound({delta: epsilon}, rate)
    assert rate <= bound <= 1
    if 0 < bound < 1 and delta > 0:
        assert bound <= math.exp(epsilon) * rate + delta + 1e-9
        assert (1 - bound) * math.exp(epsilon) + rate + delta >= 1 - 1e-6


def test_nothing_released_leaks_nothing():
    risk = attack_risk(dict.fromkeys(deltas_for(1e-06), 0.0), failure=1e-6, mu=0.0)
    assert risk.advantage == 0
    assert risk.true_positive_rate[0.01] == pytest.approx(0.01)
    assert risk.posterior[0.5] == pytest.approx(0.5, abs=1e-6) or risk.posterior[0.5] < 0.53


def test_no_guarantee_bounds_nothing():
    risk = attack_risk(dict.fromkeys(deltas_for(1e-06), math.inf), failure=1e-6)
    assert risk.advantage == 1
    assert risk.area == 1
    assert risk.posterior == {0.01: 1.0, 0.1: 1.0, 0.5: 1.0}
    assert set(risk.true_positive_rate.values()) == {1.0}
    assert "100.00\N{NO-BREAK SPACE}%" in sentences(risk)[0]


def test_huge_epsilon_does_not_overflow():
    risk = attack_risk({1e-5: 5000.0, 1e-6: 6000.0}, failure=1e-5)
    assert risk.advantage == pytest.approx(1)
    assert risk.posterior[0.01] == pytest.approx(1)


def test_posterior_is_bayes():
    assert posterior_bound(0.5, math.log(3)) == pytest.approx(0.75)
    assert posterior_bound(0.01, math.log(99)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("share", "shown"), [(0.0634, "6.4 %"), (0.99994, "100.00 %"), (0.00111, "0.12 %"), (0.5, "50.0 %")]
)
def test_percentages_are_rounded_upwards(share, shown):
    assert percent(share) == shown.replace(" ", "\N{NO-BREAK SPACE}")
