"""Plans with noise in shares."""

from __future__ import annotations

import pytest

from mmfed.errors import MmfedError
from mmfed.privacy.accounting import epsilon
from mmfed.privacy.distributed_planning import minimum_cohort, plan_distributed
from mmfed.privacy.planning import plan
from mmfed.privacy.units import guarantee_for


@pytest.mark.parametrize(
    ("cohort", "share", "least"), [(10, 0.8, 8), (12, 0.8, 10), (100, 0.5, 67), (3, 0.1, 3), (2, 0.5, 2), (10, 1.0, 10)]
)
def test_the_minimum_is_the_share_and_more_than_two_thirds(cohort: int, share: float, least: int) -> None:
    assert minimum_cohort(cohort, share) == least


def test_there_and_back() -> None:
    there = plan_distributed(population=1000, cohort=None, rounds=20, parameters=5000, epsilon=4.0)
    back = plan_distributed(
        population=1000, cohort=None, rounds=20, parameters=5000, noise_multiplier=there.noise_multiplier
    )
    assert 3.99 < there.epsilon <= 4.0
    assert back.epsilon == there.epsilon
    assert epsilon([there.release()], there.delta).value == there.epsilon


def test_distribution_costs_little_more_noise_than_a_trusted_server() -> None:
    """Everyone takes part in every round: within 15 % of σ of the central Gaussian, and never below it."""
    central = plan(population=1000, cohort=None, rounds=20, epsilon=4.0)
    shared = plan_distributed(population=1000, cohort=None, rounds=20, parameters=5000, epsilon=4.0)
    assert central.noise_multiplier < shared.noise_multiplier < 1.15 * central.noise_multiplier
    assert shared.noise_on_mean == pytest.approx(shared.noise_multiplier * 1.01 / 1000, rel=1e-3)


def test_a_smaller_cohort_does_not_lower_epsilon() -> None:
    whole = plan_distributed(population=1000, cohort=None, rounds=20, parameters=5000, epsilon=4.0)
    part = plan_distributed(population=1000, cohort=100, rounds=20, parameters=5000, epsilon=4.0)
    assert part.noise_multiplier == whole.noise_multiplier
    assert part.cohort == 100
    assert part.noise.minimum == 80


def test_fewer_survivors_cost_noise_in_a_full_sum() -> None:
    strict, loose = (
        plan_distributed(
            population=300, cohort=None, rounds=5, parameters=100, epsilon=4.0, minimum_survivors=share
        ).noise
        for share in (1.0, 0.7)
    )
    assert loose.ticks == pytest.approx(strict.ticks * 300 / 210, rel=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": 4.0, "noise_multiplier": 1.0},
        {},
        {"epsilon": 4.0, "minimum_survivors": 0.0},
        {"epsilon": 4.0, "minimum_survivors": 1.1},
        {"epsilon": 4.0, "parameters": 0},
        {"epsilon": 4.0, "rounds": 0},
        {"epsilon": 4.0, "population": 1},
        {"epsilon": 4.0, "delta": 0.1},
        {"epsilon": -1.0},
    ],
)
def test_what_makes_no_plan_is_refused(wrong: dict) -> None:
    with pytest.raises(MmfedError):
        plan_distributed(**{"population": 1000, "cohort": None, "rounds": 20, "parameters": 5000, **wrong})


def test_the_guarantee_names_unit_adjacency_and_trust() -> None:
    promise = guarantee_for("user-distributed", epsilon=3.25, population=1000)
    sentence = promise.sentence()
    for part in ("epsilon = 3.25", "one user", "zero-out of one user", "honest but curious", "do not collude"):
        assert part in sentence
    assert any("who takes part" in part for part in promise.not_covered)
    assert any("collude" in part for part in promise.not_covered)
