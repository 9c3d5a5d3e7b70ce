"""The closed-form account of Skellam noise against exact divergences, computed from the distribution itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from mmfed.errors import MmfedError
from mmfed.privacy.accounting import Accountant, GaussianRelease, epsilon
from mmfed.privacy.audit.recompute import gaussian_epsilon
from mmfed.privacy.skellam import SkellamRelease, skellam_noise_for, skellam_rdp


def log_masses(variance: float, reach: int) -> np.ndarray:
    """log P(X = k) for k in [-reach, reach]: e^-μ I_|k|(μ), variance μ."""
    k = np.abs(np.arange(-reach, reach + 1))
    with np.errstate(divide="ignore"):
        return np.log(special.ive(k, variance))


def exact_rdp(order: int, variance: float, shift: int) -> float:
    """Rényi divergence between Skellam noise shifted by ``shift`` and not shifted, in one coordinate, by summation."""
    reach = int(20 * math.sqrt(variance) * math.sqrt(order) + 40 + order * abs(shift))
    p = log_masses(variance, reach + abs(shift))
    width = 2 * reach + 1
    shifted, plain = p[:width], p[abs(shift) : abs(shift) + width]
    usable = np.isfinite(shifted) & np.isfinite(plain)
    return float(special.logsumexp(order * shifted[usable] - (order - 1) * plain[usable])) / (order - 1)


def exact_delta(values: list[int], variance: float, epsilon: float) -> float:
    """Hockey-stick divergence at ε for a vector of shifts: the exact loss distribution, every combination by itself."""
    losses, masses = np.zeros(1), np.ones(1)
    for shift in values:
        reach = int(14 * math.sqrt(variance) + 30)
        p = log_masses(variance, reach + abs(shift))
        width = 2 * reach + 1
        shifted, plain = p[:width], p[abs(shift) : abs(shift) + width]
        usable = np.isfinite(shifted) & np.isfinite(plain) & (shifted > -45)
        losses = np.add.outer(losses, (shifted - plain)[usable]).ravel()
        masses = np.multiply.outer(masses, np.exp(shifted[usable])).ravel()
    above = losses > epsilon
    return float((masses[above] * -np.expm1(epsilon - losses[above])).sum())


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.floats(0.5, 2000), st.integers(1, 12))
def test_one_coordinate_never_loses_more_than_the_theorem_says(order: int, variance: float, shift: int) -> None:
    claim = skellam_rdp(order, math.sqrt(variance) / shift, shift**2, shift)
    assert exact_rdp(order, variance, shift) <= claim * (1 + 1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 20), st.floats(2, 500), st.lists(st.integers(-6, 6), min_size=1, max_size=8))
def test_a_vector_never_loses_more_than_the_corollary_says(order: int, variance: float, values: list[int]) -> None:
    """Coordinates are independent: exact divergences add up."""
    square, l1 = sum(v * v for v in values), sum(abs(v) for v in values)
    if not square:
        return
    exact = sum(exact_rdp(order, variance, abs(v)) for v in values if v)
    assert exact <= skellam_rdp(order, math.sqrt(variance / square), square, l1) * (1 + 1e-9)


def test_the_bound_is_tight_where_the_noise_is_wide() -> None:
    """Within 1 % of the truth at variance 10^4: the oracle would notice a factor."""
    for order in (2, 8, 32):
        claim = skellam_rdp(order, 100 / 10, 100, 10)
        assert exact_rdp(order, 1e4, 10) == pytest.approx(claim, rel=0.01)


@pytest.mark.parametrize(
    ("values", "variance", "delta"), [([3], 9.0, 1e-5), ([4], 40.0, 1e-6), ([2, 1, 1], 12.0, 1e-5)]
)
def test_epsilon_covers_the_exact_loss_distribution(values: list[int], variance: float, delta: float) -> None:
    square, l1 = sum(v * v for v in values), sum(values)
    release = SkellamRelease(noise_multiplier=math.sqrt(variance / square), l2_squared=square, l1=l1)
    claimed = epsilon([release], delta)
    assert claimed.method == "rdp"
    assert exact_delta(values, variance, claimed.value) <= delta
    assert exact_delta(values, variance, 0.6 * claimed.value) > delta  # RDP is loose for one release, not worthless


def test_with_fine_integers_it_is_the_gaussian_by_renyi() -> None:
    """Large Δ2: the extra terms vanish, and what is left above the exact Gaussian is the conversion from RDP."""
    release = SkellamRelease(noise_multiplier=4.0, l2_squared=10**8, l1=10**4 * 30, count=50)
    claimed = epsilon([release], 1e-6).value
    exact = gaussian_epsilon(math.sqrt(50) / 4, 1e-6)
    assert exact < claimed < 1.12 * exact


def test_coarse_integers_cost_more() -> None:
    """The rounding inflation and the excess over a Gaussian are in the account, not left out."""
    fine = SkellamRelease(noise_multiplier=1.0, l2_squared=10**8, l1=10**4)
    coarse = SkellamRelease(noise_multiplier=1.0, l2_squared=16, l1=16)
    assert epsilon([coarse], 1e-6).value > 1.05 * epsilon([fine], 1e-6).value


def test_releases_compose_one_by_one_as_at_once() -> None:
    release = SkellamRelease(noise_multiplier=3.0, l2_squared=1000, l1=900)
    accountant = Accountant(1e-6)
    for _ in range(7):
        accountant.add(release)
    whole = SkellamRelease(noise_multiplier=3.0, l2_squared=1000, l1=900, count=7)
    assert accountant.epsilon() == epsilon([whole], 1e-6)
    mixed = [whole, GaussianRelease(noise_multiplier=2.0, sampling="poisson", sampling_rate=0.1)]
    assert epsilon(mixed, 1e-6).value > epsilon([whole], 1e-6).value


@pytest.mark.parametrize("target", [0.3, 2.0, 8.0, 40.0])
def test_planned_noise_gives_the_epsilon_asked_for(target: float) -> None:
    sigma = skellam_noise_for(epsilon=target, delta=1e-6, l2_squared=10**6, l1=10**5, rounds=30)
    release = SkellamRelease(noise_multiplier=sigma, l2_squared=10**6, l1=10**5, count=30)
    assert 0.999 * target <= epsilon([release], 1e-6).value <= target


@pytest.mark.parametrize(
    "wrong", [{"noise_multiplier": 0.0}, {"noise_multiplier": math.nan}, {"l2_squared": 0}, {"l1": 200}, {"count": 0}]
)
def test_parameters_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(MmfedError):
        SkellamRelease(**{"noise_multiplier": 1.0, "l2_squared": 100, "l1": 50, **wrong})


def test_an_impossible_target_is_refused() -> None:
    with pytest.raises(MmfedError, match="no noise multiplier"):
        skellam_noise_for(epsilon=1e-9, delta=1e-12, l2_squared=100, l1=50, rounds=10**6)
