"""The one-shot release of a device alone: sensitivity by brute force, noise in closed form, bounds enforced."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mmfed.errors import MmfedError
from mmfed.privacy.audit.recompute import gaussian_epsilon
from mmfed.privacy.local import SENSITIVITY
from mmfed.privacy.mechanisms import SecureNoise, SeededNoise
from mmfed.privacy.one_shot_local import ONE_SHOT_SENSITIVITY, LocalOneShot, local_noise_beside, plan_one_shot_local
from mmfed.training.batch import Histories
from mmfed.training.cooccurrence import banded_cooccurrence, packed, popularity_counts


def history(items: tuple[int, ...]) -> Histories:
    return Histories(np.array([1], dtype=np.uint64), np.array([0, len(items)]), np.array(items, dtype=np.int64))


def test_no_two_people_are_further_apart_than_the_sensitivity_and_some_are_that_far() -> None:
    """Every history of up to three of four items, each against each, nobody's (none) included."""
    people = [sequence for length in range(4) for sequence in product(range(4), repeat=length)]
    for vectors in (
        np.array([popularity_counts(history(one), 4) for one in people]),
        np.array([packed(banded_cooccurrence(history(one), 4, decay=0.7)) for one in people]),
    ):
        assert vectors.min() >= 0
        distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
        assert distances.max() == pytest.approx(ONE_SHOT_SENSITIVITY, abs=1e-12)
        assert distances.max() <= ONE_SHOT_SENSITIVITY + 1e-12


def test_what_a_device_is_given_is_brought_within_the_bounds() -> None:
    one = LocalOneShot(noise_multiplier=1.0, noise=SeededNoise(1))
    assert one.bounded(np.array([-3.0, 0.5])).tolist() == [0.0, 0.5]
    assert np.linalg.norm(one.bounded(np.array([3.0, 4.0]))) == pytest.approx(1.0)
    assert np.linalg.norm(one.bounded(np.array([1e300, 1e300]))) == pytest.approx(1.0)
    for broken in (np.nan, np.inf, -np.inf):
        assert np.linalg.norm(one.bounded(np.array([0.6, broken]))) <= 1.0
    assert one.bounded(np.array([np.nan, 1.0])).tolist() == [0.0, 0.0]
    worst = one.bounded(np.array([9.0, -9.0])) - one.bounded(np.array([-9.0, 9.0]))
    assert np.linalg.norm(worst) == pytest.approx(ONE_SHOT_SENSITIVITY)


@pytest.mark.parametrize("source", [SeededNoise(3), SecureNoise()])
def test_the_noise_has_its_law_with_power(source) -> None:
    mechanism = LocalOneShot(noise_multiplier=0.7, noise=source)
    noise = mechanism.release(np.zeros(40_000), round_number=0, purpose="one-shot-popularity")
    for factor, right in ((1.0, True), (2 / 3, False), (1.5, False)):
        assert (stats.kstest(noise, "norm", args=(0, 0.7 * factor)).pvalue > 1e-6) == right


@settings(max_examples=40, deadline=None)
@given(epsilon=st.floats(0.2, 30), share=st.one_of(st.none(), st.floats(0.01, 1.0)), population=st.integers(10, 10**7))
def test_both_vectors_of_a_device_cost_epsilon_exactly(epsilon: float, share: float | None, population: int) -> None:
    plan = plan_one_shot_local(population=population, epsilon=epsilon, popularity_share=share)
    mu = math.sqrt(sum((ONE_SHOT_SENSITIVITY / noise) ** 2 for noise in plan.noise_multipliers().values()))
    assert gaussian_epsilon(mu, population**-1.1) == pytest.approx(epsilon, rel=1e-7)
    assert {name: kind.noise_multiplier * ONE_SHOT_SENSITIVITY for name, kind in plan.releases().items()} == (
        pytest.approx(plan.noise_multipliers())
    )


def test_the_noise_of_all_devices_decides_whether_pairs_are_asked_for() -> None:
    assert plan_one_shot_local(population=943, epsilon=8, delta=1e-5).cooccurrence_noise is None
    assert plan_one_shot_local(population=10**6, epsilon=8).cooccurrence_noise is not None


def test_updates_after_the_release_share_its_epsilon_exactly() -> None:
    early = plan_one_shot_local(population=1000, epsilon=2.0, delta=1e-5, popularity_share=0.3)
    noise = local_noise_beside(epsilon=5.0, delta=1e-5, releases=7, early=early)
    squares = [(ONE_SHOT_SENSITIVITY / one) ** 2 for one in early.noise_multipliers().values()]
    mu = math.sqrt(sum(squares) + 7 * (SENSITIVITY / noise) ** 2)
    assert gaussian_epsilon(mu, 1e-5) == pytest.approx(5.0, rel=1e-6)
    with pytest.raises(MmfedError, match="leaves nothing"):
        local_noise_beside(epsilon=2.0, delta=1e-5, releases=7, early=early)
