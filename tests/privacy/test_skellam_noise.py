"""The law of the noise: exact probabilities, statistical tests with power, sums of shares."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from mmfed.errors import MmfedError
from mmfed.privacy.random_words import SecureWords, SeededWords, uniforms
from mmfed.privacy.skellam_noise import UNIT, poisson_table, skellam


@pytest.mark.parametrize("rate", [1 / UNIT, 0.3, 1.0, 7.5, 300.0, 20_000.0])
def test_the_table_holds_the_poisson_law(rate: float) -> None:
    first, thresholds = poisson_table(round(rate * UNIT))
    whole = [0, *(int(t) for t in thresholds), 1 << 64]
    chances = np.array([(b - a) / 2**64 for a, b in itertools.pairwise(whole)])
    rate = round(rate * UNIT) / UNIT
    expected = stats.poisson.pmf(first + np.arange(len(chances)), rate)
    assert np.allclose(chances, expected, rtol=1e-9, atol=1e-17)
    assert abs(chances.sum() - 1) < 1e-12
    assert stats.poisson.sf(first + len(chances) - 1, rate) + stats.poisson.cdf(first - 1, rate) < 1e-18


def p_value(samples: np.ndarray, variance: float) -> float:
    """Chi-square of Skellam counts, cells of at least 20 expected."""
    cells = np.arange(-400, 401)
    chances = stats.skellam.pmf(cells, variance / 2, variance / 2)
    keep = chances * len(samples) >= 20
    low, high = cells[keep][0], cells[keep][-1]
    found = np.bincount(np.clip(samples, low - 1, high + 1) - low + 1, minlength=high - low + 3)
    tail = stats.skellam.cdf(low - 1, variance / 2, variance / 2)
    expected = np.concatenate([[tail], chances[keep], [max(0.0, 1 - tail - chances[keep].sum())]]) * len(samples)
    wide = expected > 5
    return float(stats.chisquare(found[wide], expected[wide] * found[wide].sum() / expected[wide].sum()).pvalue)


@pytest.mark.parametrize("source", [SeededWords(1, "test"), SecureWords()], ids=["seeded", "secure"])
@pytest.mark.parametrize("variance", [0.5, 20.0, 400.0])
def test_samples_follow_the_law_and_no_other(source, variance: float) -> None:
    """Accepts the right variance and rejects 4/9 and 9/4 of it (2/3 and 3/2 of the standard deviation)."""
    samples = skellam(round(variance / 2 * UNIT), 40_000, source)
    assert p_value(samples, variance) > 1e-5
    assert p_value(samples, variance * 4 / 9) < 1e-12
    assert p_value(samples, variance * 9 / 4) < 1e-12


def test_shares_of_many_devices_add_up_to_the_law() -> None:
    """Twenty shares of variance 5 are one noise of variance 100."""
    shares = [skellam(round(2.5 * UNIT), 30_000, SeededWords(2, "device", device)) for device in range(20)]
    total = np.sum(shares, axis=0)
    assert p_value(total, 100.0) > 1e-5
    assert p_value(np.sum(shares[:13], axis=0), 100.0) < 1e-12
    assert abs(np.corrcoef(shares[0], shares[1])[0, 1]) < 5 / math.sqrt(30_000)


def test_seeded_words_repeat_and_secure_ones_do_not() -> None:
    assert np.array_equal(SeededWords(1, "a").words(5), SeededWords(1, "a").words(5))
    assert not np.array_equal(SeededWords(1, "a").words(5), SeededWords(1, "b").words(5))
    assert not np.array_equal(SecureWords().words(5), SecureWords().words(5))
    stream = SecureWords()
    assert not np.array_equal(stream.words(5), stream.words(5))
    assert stats.kstest(uniforms(stream, 20_000), "uniform").pvalue > 1e-5


@pytest.mark.parametrize("ticks", [0, -1, True, 2.5, 10**14])
def test_a_rate_that_cannot_be_drawn_is_refused(ticks) -> None:
    with pytest.raises(MmfedError, match="cannot be drawn"):
        skellam(ticks, 1, SecureWords())
