import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy import calibration
from mmfed.privacy.accounting import GaussianRelease, epsilon
from mmfed.privacy.calibration import _smallest, noise_multiplier_for, rounds_for


def spent(sigma, sampling, rate, rounds, delta):
    release = GaussianRelease(noise_multiplier=sigma, sampling=sampling, sampling_rate=rate, count=rounds)
    return epsilon([release], delta).value


@pytest.mark.parametrize(
    ("target", "delta", "sampling", "rate", "rounds"),
    [
        (4.0, 5e-4, "poisson", 0.1, 75),
        pytest.param(0.1, 1e-5, "poisson", 0.02, 20, marks=pytest.mark.slow),
        pytest.param(2.0, 1e-12, "poisson", 0.01, 50, marks=pytest.mark.slow),
    ],
)
def test_noise_is_enough_and_not_more_than_needed(target, delta, sampling, rate, rounds):
    sigma = noise_multiplier_for(epsilon=target, delta=delta, sampling=sampling, sampling_rate=rate, rounds=rounds)
    assert target * (1 - 1e-3) <= spent(sigma, sampling, rate, rounds, delta) <= target


@given(st.floats(0.01, 50), st.floats(-12, -2), st.integers(1, 2000))
@settings(max_examples=25, deadline=None)
def test_full_participation(target, exponent, rounds):
    delta = 10.0**exponent
    sigma = noise_multiplier_for(epsilon=target, delta=delta, sampling="full", sampling_rate=1.0, rounds=rounds)
    assert target * (1 - 1e-3) <= spent(sigma, "full", 1.0, rounds, delta) <= target
    found = rounds_for(epsilon=target, delta=delta, sampling="full", sampling_rate=1.0, noise_multiplier=sigma)
    assert rounds <= found <= rounds * 1.01 + 1


@pytest.mark.slow
def test_rounds_are_the_most_that_fit():
    values = {"sampling": "poisson", "sampling_rate": 0.1, "noise_multiplier": 4.0}
    found = rounds_for(epsilon=0.5, delta=1e-5, **values)
    assert spent(4.0, "poisson", 0.1, found, 1e-5) <= 0.5 < spent(4.0, "poisson", 0.1, found + 1, 1e-5)
    assert rounds_for(epsilon=1.5, delta=1e-5, **{**values, "noise_multiplier": 0.2, "sampling_rate": 0.9}) == 0
    assert rounds_for(epsilon=0.5, delta=1e-5, most=5, **values) == 5


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("epsilon", {"epsilon": 0.0}),
        ("delta", {"delta": 1.0}),
        ("rounds", {"rounds": 0}),
        ("sampling_rate", {"sampling_rate": 0.0}),
        ("sampling", {"sampling": "fixed"}),
    ],
)
def test_arguments_are_checked(name, change):
    good = {"epsilon": 1.0, "delta": 1e-5, "sampling": "poisson", "sampling_rate": 0.5, "rounds": 1}
    with pytest.raises(MmfedError, match=name) as caught:
        noise_multiplier_for(**{**good, **change})
    assert caught.value.code == ExitCode.PRIVACY


def test_what_no_noise_can_reach_is_said():
    with pytest.raises(MmfedError, match="no noise multiplier up to 1e"):
        noise_multiplier_for(epsilon=1e-7, delta=1e-12, sampling="full", sampling_rate=1.0, rounds=1000)


@pytest.mark.parametrize("ratio", [0.9, 0.997, 1.0, 1.004, 1.2])
def test_the_fine_grid_decides(monkeypatch, ratio):
    """The search runs on a coarse grid; whatever that grid says, the account that will be charged stays in budget."""

    def account(release, delta, grid):
        return 10.0 / release.noise_multiplier * (ratio if grid is None else 1.0)

    monkeypatch.setattr(calibration, "_spent", account)
    sigma = noise_multiplier_for(epsilon=2.0, delta=1e-5, sampling="full", sampling_rate=1.0, rounds=1)
    assert 2.0 * (1 - 1e-3) <= 10.0 / sigma * ratio <= 2.0


def bisected(spent, aim):
    """What ``_smallest`` has to find, asking for ε at every step."""
    low, high = 0.0, 1.0
    while spent(high) > aim:
        low, high = high, high * 2.0
    while low == 0.0 and high > 1e-3:
        low, high = (high / 2.0, high) if spent(high / 2.0) > aim else (0.0, high / 2.0)
    while high - low > 1e-5 * high and high >= 1e-3:
        middle = math.sqrt(low * high) if low > 0 else high / 2.0
        low, high = (middle, high) if spent(middle) > aim else (low, middle)
    return high


@pytest.mark.parametrize("aim", [1e-3, 0.3, 4.0, 77.0])
@pytest.mark.parametrize(
    "spent",
    [
        lambda sigma: 3 / sigma,
        lambda sigma: 1 / sigma**2 + 2 / sigma,
        lambda sigma: math.expm1(min(1 / sigma**2, 600.0)),
        lambda sigma: math.inf if sigma < 0.9 else 1 / sigma,
        lambda sigma: max(0.0, 2 / sigma - 1e-3),
        lambda sigma: 80.0 if sigma < 7.3 else 0.0,
    ],
    ids=["1/s", "1/s2 + 2/s", "exponential", "infinite", "down to zero", "a step"],
)
def test_the_search_finds_what_bisection_finds_and_asks_less(spent, aim):
    asked = []

    def counting(sigma):
        asked.append(sigma)
        return spent(sigma)

    plain = []
    expected = bisected(lambda sigma: plain.append(sigma) or spent(sigma), aim)
    assert _smallest(counting, aim, 1e-5) == expected
    assert len(asked) <= len(plain) + 10
    assert len(set(asked)) == len(asked), "nothing is asked twice"
    if spent(expected) > 0.99 * aim:  # where ε falls smoothly
        assert len(asked) <= len(plain) - 5
