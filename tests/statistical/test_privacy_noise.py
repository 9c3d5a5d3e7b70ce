"""Statistical tests with power: the right σ is accepted, 2/3 σ and 3/2 σ are rejected.

Secure noise cannot be seeded, so every bound leaves a chance below one in a million of a false alarm.
"""

import math

import numpy as np
import pytest
from scipy import stats

from mmfed.privacy.mechanisms import GaussianMechanism, SecureNoise, SeededNoise

SIZE = 40_000
SOURCES = {"seeded": lambda: SeededNoise(7), "secure": SecureNoise}


def accepts(samples: np.ndarray, sigma: float) -> bool:
    """Two-sided chi-square test of the standard deviation (mean zero) and a Kolmogorov-Smirnov test of the shape."""
    scaled = np.ravel(samples) / sigma
    statistic = float(np.square(scaled).sum())
    tail = min(stats.chi2.cdf(statistic, scaled.size), stats.chi2.sf(statistic, scaled.size))
    return tail > 1e-7 and stats.kstest(scaled, "norm").pvalue > 1e-7


@pytest.fixture(params=SOURCES)
def mechanism(request):
    return GaussianMechanism(clip_norm=0.3, noise_multiplier=2.5, noise=SOURCES[request.param]())


def noise_of(mechanism, total=None, *, planned=50, round_number=0):
    total = np.zeros(SIZE) if total is None else total
    return (mechanism.release(total, planned_cohort=planned, round_number=round_number) - total / planned) * planned


def test_accepts_sigma_and_rejects_two_thirds_and_three_halves(mechanism):
    noise = noise_of(mechanism)
    sigma = 2.5 * 0.3
    assert accepts(noise, sigma)
    assert not accepts(noise, sigma * 2 / 3)
    assert not accepts(noise, sigma * 3 / 2)
    assert not accepts(noise, sigma * 1.05)


def test_noise_does_not_depend_on_the_update(mechanism):
    total = np.linspace(-100, 100, SIZE)
    noise = noise_of(mechanism, total)
    assert accepts(noise, 0.75)
    assert abs(np.corrcoef(noise, total)[0, 1]) < 5.5 / math.sqrt(SIZE)


def test_every_coordinate_gets_its_own_noise(mechanism):
    total = np.zeros((20, 25))
    total[3, 4] = 0.1
    noise = np.stack([noise_of(mechanism, total, round_number=r) for r in range(400)]).reshape(400, -1)
    per_coordinate = np.square(noise / 0.75).sum(axis=0)
    assert (per_coordinate > stats.chi2.isf(1 - 1e-9, 400)).all()
    assert (per_coordinate < stats.chi2.isf(1e-9, 400)).all()
    correlations = np.corrcoef(noise.T)[np.triu_indices(noise.shape[1], 1)]
    assert np.abs(correlations).max() < 7.5 / math.sqrt(400)


def test_rounds_are_independent(mechanism):
    first, second = noise_of(mechanism, round_number=1), noise_of(mechanism, round_number=2)
    assert not np.array_equal(first, second)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5.5 / math.sqrt(SIZE)
    assert accepts((first - second) / math.sqrt(2), 0.75)


def test_neighbouring_coordinates_are_independent(mechanism):
    noise = noise_of(mechanism)
    for lag in (1, 2, SIZE // 2):
        assert abs(np.corrcoef(noise[:-lag], noise[lag:])[0, 1]) < 7 / math.sqrt(SIZE - lag)


def test_secure_noise_crosses_chunks_without_repeating():
    samples = SecureNoise().standard_normal((1 << 18) + 5000, round_number=0, purpose="model")
    assert accepts(samples[-5000:], 1.0)
    assert not np.isin(samples[-5000:], samples[:5000]).any()
    assert stats.kurtosis(samples) == pytest.approx(0, abs=6 * math.sqrt(24 / samples.size))


def test_two_secure_draws_differ():
    source = SecureNoise()
    first, second = (source.standard_normal(1000, round_number=3, purpose="model") for _ in range(2))
    assert not np.isin(first, second).any()
