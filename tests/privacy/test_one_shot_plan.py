"""The plan of the one-shot release: two noises under one ε, told from public figures alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.errors import MmfedError
from mmfed.privacy.accounting import epsilon as account
from mmfed.privacy.audit.recompute import gaussian_epsilon
from mmfed.privacy.one_shot import OneShotPlan, default_share, one_shot_epsilon, plan_one_shot


def mu(plan: OneShotPlan) -> float:
    return math.sqrt(sum(1 / one.noise_multiplier**2 for one in plan.releases().values()))


@settings(max_examples=40, deadline=None)
@given(
    epsilon=st.floats(0.1, 30),
    share=st.one_of(st.none(), st.floats(0.01, 1.0)),
    population=st.integers(10, 10**7),
)
def test_both_sums_together_cost_epsilon_and_not_more(epsilon: float, share: float | None, population: int) -> None:
    plan = plan_one_shot(population=population, epsilon=epsilon, popularity_share=share)
    delta = population**-1.1
    spent = gaussian_epsilon(mu(plan), delta)  # the exact curve, by the auditor's own code
    assert spent <= epsilon
    assert spent == pytest.approx(epsilon, rel=2e-3)
    assert account(list(plan.releases().values()), delta).value == pytest.approx(spent, rel=1e-6)


def test_the_share_is_of_the_squared_signal() -> None:
    plan = plan_one_shot(population=943, epsilon=8, delta=1e-5, popularity_share=0.1)
    assert plan.cooccurrence_noise is not None
    assert plan.popularity_noise**-2 == pytest.approx(0.1 * mu(plan) ** 2)
    assert plan.cooccurrence_noise**-2 == pytest.approx(0.9 * mu(plan) ** 2)


@pytest.mark.parametrize(("epsilon", "alone"), [(1, True), (2, False), (8, False)])
def test_few_users_and_little_epsilon_leave_popularity_alone(epsilon: float, alone: bool) -> None:
    plan = plan_one_shot(population=943, epsilon=epsilon, delta=1e-5)
    assert (plan.cooccurrence_noise is None) == alone
    assert set(plan.releases()) == ({"popularity"} if alone else {"popularity", "cooccurrence"})
    assert plan_one_shot(population=10_000, epsilon=epsilon).cooccurrence_noise is not None


def test_popularity_gets_less_as_the_signal_grows() -> None:
    shares = [default_share(population, 3.0) for population in (10, 899, 901, 1799, 1801, 10**7)]
    assert shares == [1.0, 1.0, 0.2, 0.2, 0.1, 0.1]


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(MmfedError, match="popularity_share"):
        plan_one_shot(population=100, epsilon=1, popularity_share=share)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan"), float("inf")])
def test_an_epsilon_that_is_none_is_refused(epsilon: float) -> None:
    with pytest.raises(MmfedError, match="epsilon"):
        plan_one_shot(population=100, epsilon=epsilon)


def test_without_rounds_the_release_gets_everything() -> None:
    assert one_shot_epsilon(8.0, 0.5, 0) == 8.0
    assert one_shot_epsilon(8.0, 0.25, 10) == 2.0
    with pytest.raises(MmfedError, match="leaves nothing for 10 rounds"):
        one_shot_epsilon(8.0, 1.0, 10)
