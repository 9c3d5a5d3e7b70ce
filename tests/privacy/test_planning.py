import math

import pytest

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.planning import plan, plan_record, user_epsilon_of_record_plan


def test_both_directions_meet():
    forward = plan(population=1000, cohort=None, rounds=50, epsilon=4.0)
    back = plan(population=1000, cohort=1000, rounds=50, noise_multiplier=forward.noise_multiplier)
    assert back.epsilon == pytest.approx(forward.epsilon)
    assert 3.996 <= forward.epsilon <= 4.0
    assert forward.delta == 1000**-1.1
    assert (forward.sampling, forward.sampling_rate) == ("full", 1.0)


def test_a_cohort_is_poisson_sampled_and_amplifies():
    sampled = plan(population=1000, cohort=100, rounds=50, noise_multiplier=1.0)
    assert (sampled.sampling, sampled.sampling_rate) == ("poisson", 0.1)
    assert sampled.epsilon < plan(population=1000, cohort=None, rounds=50, noise_multiplier=1.0).epsilon
    assert sampled.release().count == 50


def test_signal_to_noise_hint():
    sampled = plan(population=1000, cohort=100, rounds=5, noise_multiplier=2.0)
    assert sampled.noise_on_mean == pytest.approx(0.02)
    assert sampled.signal_to_noise(2500) == pytest.approx(1.0)
    assert sampled.signal_to_noise(2500, alignment=0.5) == pytest.approx(0.5)


def test_record_plan():
    record = plan_record(windows=20, sampling_rate=0.5, steps=10, epsilon=3.0)
    assert record.mode == "record"
    assert record.cohort == 10
    assert 2.997 <= record.epsilon <= 3.0
    assert user_epsilon_of_record_plan(record) > 10 * record.epsilon


@pytest.mark.slow
def test_user_level_of_one_full_window_set_is_the_gaussian_with_that_sensitivity():
    record = plan_record(windows=4, sampling_rate=1.0, steps=9, delta=1e-5, noise_multiplier=24.0)
    assert (
        record.epsilon == plan_record(windows=4, sampling_rate=1.0, steps=9, delta=1e-5, noise_multiplier=24.0).epsilon
    )
    as_one = plan(population=10, cohort=None, rounds=9, delta=1e-5, noise_multiplier=6.0)
    assert user_epsilon_of_record_plan(record) == pytest.approx(as_one.epsilon, rel=1e-3)


@pytest.mark.parametrize(
    ("match", "change"),
    [
        ("give exactly one", {"epsilon": None}),
        ("give exactly one", {"noise_multiplier": 1.0}),
        ("cohort = 2000", {"cohort": 2000}),
        ("cohort = 0", {"cohort": 0}),
        ("population = 1", {"population": 1, "cohort": None}),
        ("rounds = 0", {"rounds": 0}),
        ("not below 1/N", {"delta": 0.01}),
        ("epsilon = 0", {"epsilon": 0.0}),
        ("epsilon = nan", {"epsilon": math.nan}),
        ("noise_multiplier = -1", {"epsilon": None, "noise_multiplier": -1.0}),
    ],
)
def test_impossible_plans_are_refused(match, change):
    good = {"population": 1000, "cohort": None, "rounds": 5, "epsilon": 1.0}
    with pytest.raises(MmfedError, match=match) as caught:
        plan(**{**good, **change})
    assert caught.value.code == ExitCode.PRIVACY


def test_impossible_record_plans_are_refused():
    for match, change in (
        ("windows", {"windows": 1}),
        ("sampling_rate", {"sampling_rate": 0}),
        ("steps", {"steps": 0}),
    ):
        with pytest.raises(MmfedError, match=match):
            plan_record(**{"windows": 30, "sampling_rate": 0.5, "steps": 3, "epsilon": 1.0, **change})
