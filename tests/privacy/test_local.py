"""Local privacy of a user: clip and noise on the device, sensitivity 2C, and its ε by three ways."""

from __future__ import annotations

import math

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from mmfed.errors import MmfedError
from mmfed.privacy.accounting import Accountant, GaussianRelease, PureRelease, cross_check, epsilon
from mmfed.privacy.audit.recompute import Term, epsilon_upper_bound, gaussian_mu, pure_epsilon
from mmfed.privacy.local import LocalMechanism, analytic_gaussian, laplace, local_noise_for
from mmfed.privacy.mechanisms import SecureNoise, SeededNoise
from mmfed.privacy.planning_local import expected_joins, local_release, plan_local
from mmfed.privacy.pure import composed_epsilon, release_epsilon_for


@pytest.mark.parametrize(("bound", "delta"), [(1.0, 1e-5), (0.1, 1e-6), (8.0, 1e-5), (50.0, 1e-5), (1e-3, 1e-9)])
def test_analytic_gaussian_against_dp_accounting(bound, delta):
    found = analytic_gaussian(epsilon=bound, delta=delta)
    assert found == pytest.approx(dp_accounting.get_sigma_gaussian(bound, delta), rel=1e-6)


@given(bound=st.floats(1e-3, 300), exponent=st.floats(1, 15))
@settings(max_examples=60, deadline=None)
def test_analytic_gaussian_keeps_delta_and_is_tight(bound, exponent):
    delta = 10.0**-exponent
    sigma = analytic_gaussian(epsilon=bound, delta=delta)

    def failing(scale):
        upper = stats.norm.logcdf(0.5 / scale - bound * scale)
        lower = bound + stats.norm.logcdf(-0.5 / scale - bound * scale)
        return math.exp(upper) * -math.expm1(min(0.0, lower - upper))

    assert failing(sigma) <= delta * (1 + 1e-6)
    assert failing(sigma * 0.999) > delta


@pytest.mark.parametrize(
    ("one", "count", "delta"), [(0.5, 1, 1e-5), (0.3, 40, 1e-5), (1.5, 7, 1e-9), (0.01, 500, 1e-6)]
)
def test_pure_composition_by_grid_binomial_and_integration(one, count, delta):
    by_grid, _ = composed_epsilon(one, count, delta)
    exact = pure_epsilon(one, count, delta)
    assert by_grid == pytest.approx(exact, rel=2e-3, abs=1e-5)
    assert by_grid >= exact - 1e-9
    assert exact <= one * count
    total = 0.0
    for i in range(count + 1):
        total += math.comb(count, i) * max(0.0, math.exp((count - i) * one) - math.exp(exact + i * one))
    assert total / (1 + math.exp(one)) ** count == pytest.approx(delta, rel=5e-3)


def test_laplace_account_is_an_upper_bound_on_the_laplace_loss():
    """One coordinate takes the whole shift: ε0 of the account is the largest loss, its δ at most Laplace's own."""
    mechanism = LocalMechanism(clip_norm=0.5, noise_multiplier=4.0, law="laplace", noise=SeededNoise(0))
    scale = mechanism.noise_multiplier * mechanism.clip_norm
    one = local_release(4.0, "laplace", 1)
    assert isinstance(one, PureRelease)
    assert one.epsilon == pytest.approx(2 * 0.5 / scale)
    for bound in (0.1, 0.3):
        x = np.linspace(-40, 40, 400_001)
        gap = stats.laplace.pdf(x, 0, scale) - math.exp(bound) * stats.laplace.pdf(x, 1.0, scale)
        delta = float(integrate.trapezoid(np.maximum(gap, 0), x))
        assert epsilon([one], delta).value >= bound


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
@pytest.mark.parametrize(("bound", "delta", "releases"), [(1.0, 1e-5, 1), (8.0, 1e-6, 25), (0.2, 1e-4, 3)])
def test_planned_noise_keeps_the_target_and_wastes_little(law, bound, delta, releases):
    noise = local_noise_for(epsilon=bound, delta=delta, releases=releases, law=law)
    spent = epsilon([local_release(noise, law, releases)], delta).value
    assert bound * 0.999 <= spent <= bound
    audited = epsilon_upper_bound([Term(noise / 2, 1.0, releases, pure=law == "laplace")], delta)
    assert audited == pytest.approx(spent, rel=2e-3)
    over = epsilon([local_release(noise, law, releases + 1)], delta).value
    assert over > bound


def test_gaussian_epsilon_by_opacus():
    noise = local_noise_for(epsilon=4.0, delta=1e-5, releases=10, law="gaussian")
    found = cross_check([local_release(noise, "gaussian", 10)], 1e-5)
    assert found["exact"] == pytest.approx(4.0, rel=1e-6)
    assert found["opacus-prv"] == pytest.approx(4.0, abs=0.02)
    with pytest.raises(MmfedError, match="pure"):
        cross_check([local_release(3.0, "laplace", 1)], 1e-5)


def test_running_account_of_pure_releases():
    account = Accountant(1e-5)
    for _ in range(12):
        account.add(PureRelease(epsilon=0.4))
    assert account.epsilon().value == composed_epsilon(0.4, 12, 1e-5)[0]
    assert account.epsilon_after(PureRelease(epsilon=0.1)).value == pytest.approx(12 * 0.4 + 0.1)
    gaussian = GaussianRelease(noise_multiplier=3.0, sampling="full", sampling_rate=1.0)
    alone = epsilon([gaussian], 1e-5).value
    assert account.epsilon_after(gaussian).value == pytest.approx(12 * 0.4 + alone)
    assert epsilon_upper_bound([Term(3.0, 1.0, 1), Term(2.5, 1.0, 12, pure=True)], 1e-5) == pytest.approx(4.8 + alone)
    assert gaussian_mu([Term(2.5, 1.0, 12, pure=True)]) is None


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
@given(values=st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=8), others=st.lists(st.floats(), min_size=1))
@settings(max_examples=60, deadline=None)
def test_two_updates_are_never_further_apart_than_twice_the_clip_norm(law, values, others):
    mechanism = LocalMechanism(clip_norm=0.7, noise_multiplier=1.0, law=law, noise=SeededNoise(0))
    width = max(len(values), len(others))
    padded = [np.pad(np.array(one), (0, width - len(one))) for one in (values, others)]
    first, second = (mechanism.clipped(one) for one in padded)
    order = 2 if law == "gaussian" else 1
    assert np.linalg.norm(first, order) <= 0.7 * (1 + 1e-12)
    assert np.linalg.norm(first - second, order) <= 1.4 * (1 + 1e-12)
    small = np.array([0.1, -0.2])
    assert np.array_equal(mechanism.clipped(small), small)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_becomes_noise_only(bad):
    for law in ("gaussian", "laplace"):
        mechanism = LocalMechanism(clip_norm=1.0, noise_multiplier=2.0, law=law, noise=SeededNoise(3))
        broken = mechanism.release(np.array([1.0, bad, 0.0]), round_number=1)
        assert np.array_equal(broken, mechanism.release(np.zeros(3), round_number=1))


def test_laplace_samples_need_four_normals_each():
    assert laplace(SecureNoise().standard_normal(40, round_number=0, purpose="x")).shape == (10,)


def test_joins_and_plans():
    assert expected_joins(100, 1.0) == 100
    assert expected_joins(100, 0.1) == 19
    assert expected_joins(100, 0.1, 7) == 7
    assert expected_joins(5, 0.1, 7) == 5
    found = plan_local(population=10_000, cohort=1000, rounds=100, epsilon=8.0)
    assert found.releases == 19
    assert found.noise_on_mean == pytest.approx(found.noise_multiplier / math.sqrt(1000))
    again = plan_local(population=10_000, cohort=1000, rounds=100, noise_multiplier=found.noise_multiplier)
    assert again.epsilon == pytest.approx(8.0, rel=1e-6)
    wide = plan_local(population=10_000, cohort=1000, rounds=100, epsilon=8.0, law="laplace")
    assert wide.noise_on_mean == pytest.approx(wide.noise_multiplier * math.sqrt(2 / 1000))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": None},
        {"noise_multiplier": 1.0},
        {"cohort": 11},
        {"delta": 0.5},
        {"participations": 0},
        {"rounds": 0},
    ],
)
def test_bad_plans_are_refused(wrong):
    good = {"population": 10, "cohort": 5, "rounds": 4, "epsilon": 1.0}
    with pytest.raises(MmfedError):
        plan_local(**{**good, **wrong})


def test_bad_parameters_are_refused():
    with pytest.raises(MmfedError):
        LocalMechanism(clip_norm=1.0, noise_multiplier=1.0, law="uniform", noise=SeededNoise(0))  # type: ignore[arg-type]
    with pytest.raises(MmfedError):
        LocalMechanism(clip_norm=0.0, noise_multiplier=1.0, law="gaussian", noise=SeededNoise(0))
    with pytest.raises(MmfedError):
        release_epsilon_for(epsilon=1e5, delta=1e-5, count=1)
    with pytest.raises(MmfedError):
        PureRelease(epsilon=-1.0)
