"""From a device's update to its encoding and from the sum of encodings back: bounds, bias, noise, range."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from mmfed.errors import MmfedError
from mmfed.privacy.distributed import INFLATION, DistributedNoise, scaled_norm, sensitivities
from mmfed.privacy.random_words import SeededWords
from mmfed.privacy.rotation import padded, rotate, unrotate
from mmfed.privacy.rounding import round_randomly, rounded_square, squared_norm
from mmfed.privacy.secure_aggregation.ring import Ring
from mmfed.privacy.skellam_noise import UNIT

NOISE = DistributedNoise(clip_norm=0.15, noise_multiplier=1.0, dimension=100, cohort=20, minimum=16)
ROUND = {"run_id": "test", "round_number": 3}


def update(seed: int, dimension: int = 100, norm: float = 0.15) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=dimension)
    return values * norm / np.linalg.norm(values)


def test_rotation_is_the_hadamard_matrix_after_signs() -> None:
    whole = rotate(np.eye(64)[5] * 2, **ROUND)  # type: ignore[arg-type]
    row = linalg.hadamard(64)[5] / 4
    assert np.allclose(whole, row) or np.allclose(whole, -row)


@pytest.mark.parametrize("dimension", [1, 63, 64, 65, 1000])
def test_rotation_keeps_norms_and_comes_back(dimension: int) -> None:
    values = update(1, dimension)
    turned = rotate(values, run_id="a", round_number=1)
    assert len(turned) == padded(dimension) >= dimension
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(values))
    assert np.allclose(unrotate(turned, dimension, run_id="a", round_number=1), values)
    if dimension > 1:
        assert not np.allclose(unrotate(turned, dimension, run_id="a", round_number=2), values)


def test_rotation_spreads_one_coordinate_over_all() -> None:
    spread = rotate(np.eye(1, 1000, 7)[0], run_id="a", round_number=1)
    assert np.allclose(np.abs(spread), 1 / 32)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.floats(0, 50), st.integers(0, 2**32))
def test_rounded_vectors_keep_the_bound_and_move_by_less_than_one(dimension: int, norm: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=dimension)
    values *= norm / np.linalg.norm(values)
    most = rounded_square(norm * (1 + 1e-12), dimension)
    found = round_randomly(values, most, generator.random)
    assert squared_norm(found) <= most
    assert np.abs(found - values).max() < 1


def test_rounding_falls_back_to_shorter_vectors() -> None:
    """Should every try exceed the bound, the vector is cut towards zero, not sent."""
    values = np.full(100, 0.9)
    found = round_randomly(values, 81, lambda size: np.zeros(size))  # always up: squared norm 100
    assert squared_norm(found) == 0
    assert round_randomly(-values, 81, lambda size: np.zeros(size)).tolist() == [0] * 100


def test_rounding_hardly_biases() -> None:
    """Mean of 4000 encodings, in standard errors; the conditional bound costs little."""
    source = SeededWords(0, "bias")
    target = update(2)
    found = np.mean([NOISE.bounded(target, source=source, **ROUND) for _ in range(4000)], axis=0)  # type: ignore[arg-type]
    exact = rotate(target, **ROUND) * NOISE.scale  # type: ignore[arg-type]
    assert np.abs(found - exact).max() < 6 * 0.5 / math.sqrt(4000)


@pytest.mark.parametrize("dimension", [1, 30, 100, 5000])
def test_no_encoding_exceeds_the_sensitivities(dimension: int) -> None:
    square, l1 = sensitivities(dimension)
    noise = replace(NOISE, dimension=dimension)
    assert math.sqrt(square) <= (1 + INFLATION) * scaled_norm(dimension)
    assert math.sqrt(square) > scaled_norm(dimension)
    source = SeededWords(0, "norms")
    huge = [update(0, dimension, 1e30), np.full(dimension, 1e200), update(1, dimension, 0.15), np.zeros(dimension)]
    for values in (*huge, np.full(dimension, math.nan), np.full(dimension, math.inf)):
        for number in range(5):
            found = noise.bounded(values, run_id="x", round_number=number, source=source)
            assert squared_norm(found) <= square
            assert np.abs(found).sum() <= l1


def test_the_sum_decodes_to_the_noised_sum() -> None:
    """Signal: the sum of clipped updates. Noise: the standard deviation of the plan, not 2/3 or 3/2 of it."""
    noise = replace(NOISE, dimension=3000)
    updates = [update(seed, 3000, 0.05 * (seed + 1)) for seed in range(16)]
    clipped = [u * min(1, 0.15 / np.linalg.norm(u)) for u in updates]
    total = sum(noise.encode(u, source=SeededWords(seed, "n"), **ROUND) for seed, u in enumerate(updates))  # type: ignore
    error = noise.decode(total, **ROUND) - np.sum(clipped, axis=0)  # type: ignore[arg-type]
    expected = noise.standard_deviation
    rounding = math.sqrt(16 / 4) / noise.scale  # at most
    assert expected == pytest.approx(math.sqrt(noise.l2_squared) / noise.scale, rel=0.01)  # σ = 1
    assert expected * 0.94 < error.std() < math.hypot(expected, rounding) * 1.06


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("dimension", [50, 4000])
def test_the_modulus_holds_the_sum_of_a_whole_cohort_that_agrees(sigma: float, dimension: int) -> None:
    """The worst case of use: everybody sends the same update. One bit less would not do for long."""
    noise = replace(NOISE, noise_multiplier=sigma, dimension=dimension, cohort=40, minimum=30)
    ring, source = Ring(noise.bits), SeededWords(0, "range")
    total = sum(noise.encode(update(3, dimension), source=source, **ROUND) for _ in range(40))  # type: ignore[arg-type]
    assert np.array_equal(ring.decode(ring.encode(np.asarray(total))), total)
    assert np.abs(total).max() > 2 ** (noise.bits - 1) / 16


def test_a_share_is_the_minimums_part_of_the_whole_noise() -> None:
    for minimum in (1, 7, 16, 20):
        noise = replace(NOISE, minimum=minimum)
        variance = 2 * noise.ticks / UNIT * minimum
        wanted = noise.noise_multiplier**2 * noise.l2_squared
        assert wanted <= variance <= wanted + 2 * minimum / UNIT


def test_the_accountant_sees_the_inflated_sensitivity() -> None:
    release = NOISE.release(count=5)
    assert release.l2_squared == NOISE.l2_squared > scaled_norm(100) ** 2
    assert release.l1 <= release.l2_squared
    assert release.count == 5


def test_terms_name_every_parameter() -> None:
    terms = json.loads(NOISE.terms())
    assert terms == {
        "mechanism": "skellam", "clip_norm": 0.15, "noise_multiplier": 1.0, "dimension": 100, "cohort": 20,
        "minimum": 16,
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong", [{"clip_norm": 0.0}, {"noise_multiplier": math.inf}, {"dimension": 0}, {"minimum": 0}, {"minimum": 21}]
)
def test_parameters_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(MmfedError):
        replace(NOISE, **wrong)
