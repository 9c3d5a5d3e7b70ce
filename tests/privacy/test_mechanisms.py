import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.mechanisms import GaussianMechanism, SecureNoise, SeededNoise, clip, clip_factor

ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True, width=64)


class NoNoise:
    name = "none (test)"

    def standard_normal(self, size, *, round_number, purpose):
        return np.zeros(size)


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 8)), elements=ANY_FLOAT),
       st.floats(1e-6, 1e6))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_no_update_however_strange_contributes_more_than_the_clip_norm(updates, clip_norm):
    clipped = clip(updates, clip_norm)
    assert clipped.shape == updates.shape
    assert np.isfinite(clipped).all()
    assert (np.linalg.norm(clipped, axis=1) <= clip_norm * (1 + 1e-9)).all()


def test_small_updates_pass_unchanged_and_large_ones_keep_their_direction():
    updates = np.array([[0.3, 0.4], [30.0, 40.0], [0.0, 0.0], [1e200, 0.0]])
    assert clip(updates, 1.0) == pytest.approx(np.array([[0.3, 0.4], [0.6, 0.8], [0.0, 0.0], [1.0, 0.0]]))


def test_clip_factor():
    assert clip_factor(np.array([0.0, 0.5, 1.0, 2.0, np.inf, np.nan]), 1.0).tolist() == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    assert clip_factor(4.0, 1.0) == 0.25
    with pytest.raises(MmfedError, match="clip_norm = 0"):
        clip_factor(np.ones(2), 0)


def test_release_divides_by_the_planned_cohort():
    mechanism = GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0, noise=NoNoise())
    total = np.array([[4.0, -8.0], [0.0, 1.0]])
    assert mechanism.release(total, planned_cohort=8, round_number=0).tolist() == [[0.5, -1.0], [0.0, 0.125]]


@pytest.mark.parametrize("noise", [SeededNoise(1), SecureNoise()])
def test_a_zero_update_gives_finite_noise_everywhere(noise):
    mechanism = GaussianMechanism(clip_norm=0.1, noise_multiplier=1.0, noise=noise)
    noised = mechanism.release(np.zeros(1000, dtype=np.float32), planned_cohort=1, round_number=0)
    assert noised.dtype == np.float64
    assert np.isfinite(noised).all()
    assert np.count_nonzero(noised) > 990


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_noise_cannot_hide_is_not_released(bad):
    mechanism = GaussianMechanism(clip_norm=0.1, noise_multiplier=1.0, noise=SeededNoise(0))
    with pytest.raises(MmfedError, match="NaN or infinite") as caught:
        mechanism.release(np.array([0.0, bad]), planned_cohort=1, round_number=0)
    assert caught.value.code == ExitCode.PRIVACY


def test_an_unclipped_sum_is_not_released():
    mechanism = GaussianMechanism(clip_norm=0.1, noise_multiplier=1.0, noise=SeededNoise(0))
    mechanism.release(np.array([0.3, 0.4]), planned_cohort=5, round_number=0, contributors=5)
    with pytest.raises(MmfedError, match="exceeds 5 x clip_norm"):
        mechanism.release(np.array([0.6, 0.4]), planned_cohort=5, round_number=0, contributors=5)
    with pytest.raises(MmfedError, match="exceeds 0 x clip_norm"):
        mechanism.release(np.array([1e-3]), planned_cohort=5, round_number=0, contributors=0)
    mechanism.release(np.zeros(1), planned_cohort=5, round_number=0, contributors=0)


def test_seeded_noise_depends_on_seed_round_and_purpose_only():
    draw = lambda seed, number, purpose: SeededNoise(seed).standard_normal(5, round_number=number, purpose=purpose)  # noqa: E731
    source = SeededNoise(3)
    source.standard_normal(7, round_number=0, purpose="model")
    assert np.array_equal(source.standard_normal(5, round_number=1, purpose="model"), draw(3, 1, "model"))
    others = [draw(4, 1, "model"), draw(3, 2, "model"), draw(3, 1, "metrics")]
    assert not any(np.isin(draw(3, 1, "model"), other).any() for other in others)


@pytest.mark.parametrize("noise", [SeededNoise(5), SecureNoise()])
def test_low_bits_are_gone(noise):
    """Released sums lie on a grid near 2^-16 noise deviations: float64 bits that betray the input are rounded off."""
    mechanism = GaussianMechanism(clip_norm=0.7, noise_multiplier=1.3, noise=noise)
    noised = mechanism.release(np.full(2000, 0.1), planned_cohort=1, round_number=0)
    grid = 2.0 ** (math.floor(math.log2(0.7 * 1.3)) - 16)
    assert np.array_equal(noised / grid, np.round(noised / grid))
    assert 2.0**-17 < grid / (0.7 * 1.3) <= 2.0**-16


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("clip_norm", {"clip_norm": 0.0}), ("noise_multiplier", {"noise_multiplier": math.nan}),
     ("noise_multiplier", {"noise_multiplier": 0.0}), ("clip_norm", {"clip_norm": -1.0})],
)  # fmt: skip
def test_parameters_are_checked(name, arguments):
    with pytest.raises(MmfedError, match=name):
        GaussianMechanism(**{"clip_norm": 1.0, "noise_multiplier": 1.0, "noise": SeededNoise(0), **arguments})


def test_the_planned_cohort_must_be_a_count():
    mechanism = GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0, noise=SeededNoise(0))
    with pytest.raises(MmfedError, match="planned_cohort = 0"):
        mechanism.release(np.zeros(2), planned_cohort=0, round_number=0)


def test_names_tell_simulation_from_deployment():
    assert "protects nobody" in SeededNoise(0).name
    assert "csprng" in SecureNoise().name
