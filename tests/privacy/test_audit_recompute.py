"""Our own second account against dp-accounting, Monte Carlo and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from mmfed.privacy.accounting import GaussianRelease, epsilon
from mmfed.privacy.audit import loss_distribution
from mmfed.privacy.audit.recompute import Term, epsilon_upper_bound, gaussian_epsilon, gaussian_mu, rdp_epsilon

TERM = st.builds(
    Term,
    sigma=st.floats(0.5, 10.0),
    rate=st.one_of(st.just(1.0), st.floats(0.001, 0.6), st.floats(1e-6, 1e-3)),
    count=st.one_of(st.integers(1, 300), st.integers(300, 3000)),
)


def production(terms, delta, grid=None):
    releases = [
        GaussianRelease(
            noise_multiplier=t.sigma, sampling="full" if t.rate == 1 else "poisson", sampling_rate=t.rate, count=t.count
        )
        for t in terms
    ]
    return epsilon(releases, delta, discretisation=grid)


@given(st.lists(TERM, min_size=1, max_size=2), st.floats(-9, -2.5))
@settings(max_examples=6, deadline=None)
def test_agrees_with_dp_accounting(terms, exponent):
    delta = 10.0**exponent
    claim = production(terms, delta)
    value = epsilon_upper_bound(terms, delta)
    assert value <= claim.value * (1 + 1e-3) + 1e-5
    assert claim.value <= value * 1.01 + 1e-3


@pytest.mark.parametrize("count", [500, 605, 611, 640, 800])
def test_agrees_where_the_exponential_leaves_the_floats(count):
    """e^-ε underflows above 708: the loss distribution still gives ε, not the far looser Rényi bound."""
    term = Term(0.5, 0.578125, count)
    claim, value = production([term], 1e-6), epsilon_upper_bound([term], 1e-6)
    assert claim.method == "pld"
    assert claim.value == pytest.approx(value, rel=2e-3)


def test_a_tiny_rate_is_no_false_alarm():
    """Losses far smaller than the grid: a coarser one made the auditor's bound exceed an honest claim by 1.01e-5."""
    test_agrees_with_dp_accounting.hypothesis.inner_test([Term(sigma=0.5, rate=1e-06, count=98)], -5.0)


@pytest.mark.slow
@given(st.lists(TERM, min_size=1, max_size=4), st.floats(-9, -2.5))
@settings(max_examples=60, deadline=None)
def test_agrees_with_dp_accounting_widely(terms, exponent):
    test_agrees_with_dp_accounting.hypothesis.inner_test(terms, exponent)


@pytest.mark.parametrize(("sigma", "rate"), [(0.8, 0.05), (2.0, 0.3), (1.0, 0.9)])
@pytest.mark.parametrize("delta", [1e-2, 1e-4, 1e-7])
def test_one_release_against_the_integral(sigma, rate, delta):
    """δ(ε) of one sampled Gaussian by quadrature in both directions: no discretisation shared with either account."""

    def divergence(bound, remove):
        def positive(x):
            mixed = (1 - rate) * stats.norm.pdf(x, 0, sigma) + rate * stats.norm.pdf(x, 1, sigma)
            plain = stats.norm.pdf(x, 0, sigma)
            upper, lower = (mixed, plain) if remove else (plain, mixed)
            return max(0.0, upper - math.exp(bound) * lower)

        edge = sigma**2 * math.log(max((math.exp(bound if remove else -bound) - 1 + rate) / rate, 1e-300)) + 0.5
        points = [min(max(edge, -12 * sigma), 1 + 12 * sigma)]
        return integrate.quad(positive, -12 * sigma, 1 + 12 * sigma, points=points, limit=400, epsabs=delta * 1e-5)[0]

    def solve(remove):
        if divergence(0, remove) <= delta:
            return 0.0
        return optimize.brentq(lambda bound: divergence(bound, remove) - delta, 0, 60)

    exact = max(solve(True), solve(False))
    value = epsilon_upper_bound([Term(sigma, rate, 1)], delta)
    assert value == pytest.approx(exact, rel=2e-4, abs=2e-5)
    assert value >= exact * (1 - 1e-5) - 1e-7


def test_composition_against_simulation():
    """The privacy loss of 40 rounds, drawn many times."""
    sigma, rate, count, generator = 0.9, 0.1, 40, np.random.default_rng(5)
    loss = np.zeros(400_000)
    for _ in range(count):
        x = sigma * generator.standard_normal(loss.size) + (generator.random(loss.size) < rate)
        loss += np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * sigma**2))
    value = epsilon_upper_bound([Term(sigma, rate, count)], 0.01)
    sample = np.maximum(0.0, -np.expm1(value - loss))
    assert sample.mean() == pytest.approx(0.01, abs=6 * sample.std() / math.sqrt(loss.size))


@pytest.mark.parametrize("rate", [1 - 1e-9, 1 - 1e-4])
def test_sampling_almost_everyone_is_almost_no_sampling(rate):
    sampled = epsilon_upper_bound([Term(3.0, rate, 10)], 1e-5)
    assert sampled == pytest.approx(epsilon_upper_bound([Term(3.0, 1.0, 10)], 1e-5), rel=1e-3)


def test_small_deltas_stay_exact():
    """Where the production PLD has no bound: between the exact value at δ = 1e-9 and the Rényi bound."""
    terms = [Term(1.0, 0.01, 1000)]
    values = [epsilon_upper_bound(terms, delta) for delta in (1e-9, 1e-12, 1e-15, 1e-20)]
    assert values == sorted(values)
    assert values[2] < rdp_epsilon(terms, 1e-15)
    assert values[0] == pytest.approx(production(terms, 1e-9).value, rel=1e-3)


def test_order_and_grouping_do_not_matter():
    terms = [Term(1.0, 0.05, 3), Term(4.0, 1.0, 2), Term(2.0, 0.2, 5)]
    split = [Term(2.0, 0.2, 4), Term(4.0, 1.0, 1), Term(1.0, 0.05, 3), Term(2.0, 0.2, 1), Term(4.0, 1.0, 1)]
    assert epsilon_upper_bound(split, 1e-5) == pytest.approx(epsilon_upper_bound(terms, 1e-5), rel=1e-6)


@given(st.floats(1e-3, 30), st.floats(-15, -0.5))
@settings(max_examples=200, deadline=None)
def test_gaussian_epsilon_solves_its_equation(mu, exponent):
    delta = 10.0**exponent
    value = gaussian_epsilon(mu, delta)
    upper = stats.norm.logcdf(mu / 2 - value / mu)
    lower = value + stats.norm.logcdf(-mu / 2 - value / mu)
    found = math.exp(upper) * -math.expm1(min(lower - upper, 0.0))
    assert found == pytest.approx(delta, rel=1e-6) if value > 0 else found <= delta * (1 + 1e-9)


def test_gaussian_mu():
    assert gaussian_mu([Term(3.0, 1.0, 9), Term(1.0, 1.0, 3)]) == pytest.approx(2.0)
    assert gaussian_mu([Term(3.0, 0.5, 9)]) is None
    assert gaussian_mu([]) == 0.0
    assert epsilon_upper_bound([], 1e-5) == 0.0


@given(TERM, st.floats(-9, -3))
@settings(max_examples=5, deadline=None)
def test_renyi_is_looser(term, exponent):
    assert rdp_epsilon([term], 10.0**exponent) >= epsilon_upper_bound([term], 10.0**exponent) * (1 - 1e-3) - 1e-5


@pytest.mark.parametrize("remove", [True, False])
@pytest.mark.parametrize("reach", [1.0, 3.0, 8.0])
def test_no_mass_is_lost_where_the_tails_are_cut(reach, remove):
    """Cut tails go to higher losses or to infinity; were they dropped, the bound would no longer be one."""
    h = 1e-3
    losses = loss_distribution._sampled_losses(Term(1.0, 0.2, 1), reach, h, remove=remove)
    assert losses.masses.sum() + losses.infinite == pytest.approx(1.0, abs=1e-12)
    assert (losses.masses @ np.exp(-losses.points(h))) <= 1.0 + 1e-9
    assert (losses.infinite > 0) == remove


def test_mass_at_infinity_counts_against_delta():
    losses = [loss_distribution._sampled_losses(Term(1.0, 0.2, 10), 4.0, 1e-3, remove=True)]
    certain = 1 - (1 - losses[0].infinite) ** 10
    solve = {"h": 1e-3, "bins": 1 << 17, "tilt": 2.0, "outer": 4.0, "bottom": -3.0, "guess": 2.0}
    assert loss_distribution._solve(losses, **solve, delta=certain * 0.9) == math.inf
    near, far = (loss_distribution._solve(losses, **solve, delta=certain * factor) for factor in (1.1, 5.0))
    assert math.isfinite(near)
    assert near > far


@pytest.mark.parametrize("term", [Term(10.0, 1e-4, 10_000), Term(9.0, 1e-3, 95), Term(1.0, 1e-6, 1000)])
def test_a_loss_smaller_than_the_grid(term):
    """Rounding tiny losses to 1e-4 would multiply their variance; production refines its grid, and ours agrees."""
    claim, coarse = production([term], 1e-8), production([term], 1e-8, 1e-4)
    value = epsilon_upper_bound([term], 1e-8)
    assert claim.discretisation < 1e-4
    assert value <= claim.value <= 1.05 * value
    assert claim.value < coarse.value
    on_that_grid = epsilon_upper_bound([term], 1e-8, grid=1e-4)
    if coarse.method == "pld":
        assert on_that_grid == pytest.approx(coarse.value, rel=1e-3)
    else:
        assert coarse.value < on_that_grid
