"""Denoising: what noise cannot reach is found again, what only noise made is dropped, and nothing breaks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import histories_from

from mmfed.data.schema import Features
from mmfed.models.denoise import (
    content_columns,
    denoised_cooccurrence,
    denoised_popularity,
    expected_diagonal,
    kept_entries,
    kept_spectrum,
)
from mmfed.training.cooccurrence import banded_cooccurrence, popularity_counts

ITEMS = 120


def noise(items: int, deviation: float, seed: int = 0) -> np.ndarray:
    """Symmetric, ``deviation`` off the diagonal and √2 times that on it."""
    upper = np.triu(np.random.default_rng(seed).standard_normal((items, items)), 1)
    own = np.sqrt(2) * np.random.default_rng(seed + 1).standard_normal(items)
    return deviation * (upper + upper.T + np.diag(own))


class TestTheSpectrum:
    @pytest.mark.parametrize("seed", range(5))
    def test_of_pure_noise_nothing_is_left(self, seed):
        assert not kept_spectrum(noise(300, 0.7, seed), 0.7).any()

    def test_of_noise_larger_than_told_something_is_left(self):
        """The edge is where it is claimed to be: two thirds of the deviation do not reach the noise."""
        assert kept_spectrum(noise(300, 0.7), 0.7 * 2 / 3).any()

    def test_a_planted_direction_comes_back_with_its_strength(self):
        direction = np.random.default_rng(3).standard_normal(400)
        direction /= np.linalg.norm(direction)
        strength, deviation = 120.0, 1.0
        found = kept_spectrum(strength * np.outer(direction, direction) + noise(400, deviation), deviation)
        values, vectors = np.linalg.eigh(found)
        assert (np.abs(values) > 1e-6).sum() == 1
        assert abs(vectors[:, -1] @ direction) > 0.97
        # Gavish and Donoho's shrinkage gives the best multiple of the direction seen, θ · cos²: not θ itself.
        assert values[-1] == pytest.approx(strength * (vectors[:, -1] @ direction) ** 2, rel=0.03)

    def test_less_error_than_the_noised_matrix_and_than_nothing(self):
        generator = np.random.default_rng(1)
        factors = generator.standard_normal((ITEMS, 3)) * 3.0
        true = factors @ factors.T
        seen = true + noise(ITEMS, 4.0)
        error = np.linalg.norm(kept_spectrum(seen, 4.0) - true)
        assert error < 0.5 * np.linalg.norm(seen - true)
        assert error < 0.5 * np.linalg.norm(true)

    def test_without_noise_the_positive_part_is_kept_whole(self):
        factors = np.random.default_rng(1).standard_normal((20, 4))
        np.testing.assert_allclose(kept_spectrum(factors @ factors.T, 1e-12), factors @ factors.T, atol=1e-8)


class TestEntries:
    def test_only_what_noise_hardly_reaches(self):
        matrix = noise(200, 0.5)
        matrix[3, 7] = matrix[7, 3] = 5.0
        found = kept_entries(matrix, 0.5)
        assert found[3, 7] == found[7, 3] == 5.0
        assert (found > 0).mean() < 1e-3
        assert np.array_equal(found, found.T)

    def test_negative_entries_go(self):
        assert not kept_entries(np.full((3, 3), -100.0), 1.0).any()


class TestPopularity:
    def truth(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(seed)
        content = generator.standard_normal((ITEMS, 6))
        return np.exp(1.0 + content @ [0.9, -0.6, 0.3, 0, 0, 0] + 0.3 * generator.standard_normal(ITEMS)), content

    @pytest.mark.parametrize("deviation", [1.0, 4.0])
    def test_closer_than_the_noised_counts_in_logs_and_in_order(self, deviation):
        true, content = self.truth()
        noised = true + deviation * np.random.default_rng(5).standard_normal(ITEMS)
        found = denoised_popularity(noised, deviation, content)

        def agreement(counts: np.ndarray) -> float:
            return float(np.corrcoef(np.log(np.maximum(counts, 0.05)), np.log(true))[0, 1])

        assert agreement(found) > agreement(noised) + 0.05
        assert agreement(found) > agreement(denoised_popularity(noised, deviation, np.zeros((ITEMS, 0))))

    def test_without_noise_counts_stay_what_they_are(self):
        true, content = self.truth()
        np.testing.assert_allclose(denoised_popularity(true, 1e-9, content), true, rtol=1e-6)

    @pytest.mark.parametrize(
        "noised", [np.zeros(ITEMS), np.full(ITEMS, -5.0), np.r_[1e6, np.zeros(ITEMS - 1)], np.full(ITEMS, 1e-9)]
    )
    @pytest.mark.parametrize("width", [0, 1, 6, 200])
    def test_positive_and_finite_whatever_comes(self, noised, width):
        content = np.random.default_rng(0).standard_normal((ITEMS, width))
        found = denoised_popularity(noised, 3.0, content)
        assert np.isfinite(found).all()
        assert (found > 0).all()

    @settings(max_examples=30, deadline=None)
    @given(items=st.integers(1, 5), deviation=st.floats(1e-3, 100), seed=st.integers(0, 1000))
    def test_tiny_catalogues(self, items, deviation, seed):
        generator = np.random.default_rng(seed)
        found = denoised_popularity(
            deviation * generator.standard_normal(items), deviation, generator.standard_normal((items, 3))
        )
        assert np.isfinite(found).all()
        assert (found > 0).all()


def shop(users: int = 800) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of people who stay among items alike: exact co-occurrence, popularity, and the content that tells it."""
    generator = np.random.default_rng(0)
    group = np.arange(ITEMS) % 4
    liking = np.exp(generator.standard_normal(ITEMS))
    lists = []
    for user in range(users):
        weights = liking * np.where(group == user % 4, 20.0, 1.0)
        lists.append(generator.choice(ITEMS, 12, replace=False, p=weights / weights.sum()).tolist())
    histories = histories_from(lists)
    content = np.eye(4)[group] + 0.1 * generator.standard_normal((ITEMS, 4))
    return banded_cooccurrence(histories, ITEMS, decay=0.95), popularity_counts(histories, ITEMS), content


@pytest.mark.parametrize("told", [True, False])
def test_co_occurrence_is_found_again_better_than_it_was_seen(told):
    exact, popularity, content = shop()
    deviation = 1.5
    seen = exact + noise(ITEMS, deviation)
    found = denoised_cooccurrence(seen, deviation, popularity, content if told else content[:, :0])
    off = ~np.eye(ITEMS, dtype=bool)
    assert np.linalg.norm((found - exact)[off]) < 0.5 * np.linalg.norm((seen - exact)[off])
    assert np.linalg.norm((found - exact)[off]) < 0.9 * np.linalg.norm(exact[off])
    np.testing.assert_allclose(found, found.T, atol=1e-10)


def test_denoising_changes_nothing_it_was_given():
    exact, popularity, content = shop(100)
    kept = [one.copy() for one in (exact, popularity, content)]
    denoised_cooccurrence(exact, 0.5, popularity, content)
    denoised_popularity(popularity, 0.5, content)
    assert all(np.array_equal(one, before) for one, before in zip((exact, popularity, content), kept, strict=True))


@pytest.mark.parametrize("items", [1, 2, 5])
def test_few_items(items):
    found = denoised_cooccurrence(noise(items, 1.0), 1.0, np.ones(items), np.zeros((items, 3)))
    assert found.shape == (items, items)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("length", [5, 100])
def test_the_diagonal_told_from_popularity_is_the_true_one(decay, length):
    """For short and for long histories, from a diagonal whose noise is as large as most of its entries."""
    generator = np.random.default_rng(0)
    liking = np.exp(0.5 * generator.standard_normal(ITEMS))
    draws = [generator.choice(ITEMS, length, replace=False, p=liking / liking.sum()) for _ in range(300)]
    histories = histories_from([draw.tolist() for draw in draws])
    exact = np.diag(banded_cooccurrence(histories, ITEMS, decay=decay))
    noised = exact + exact.mean() * generator.standard_normal(ITEMS)
    told = expected_diagonal(noised, popularity_counts(histories, ITEMS))
    assert np.linalg.norm(told - exact) < 0.25 * np.linalg.norm(noised - exact)


@pytest.mark.parametrize("noised", [-1e6, 0.0, 1e6])
def test_a_diagonal_of_noise_alone_stays_within_what_can_be(noised):
    told = expected_diagonal(np.full(ITEMS, noised), np.ones(ITEMS))
    assert (told > 0).all()
    assert (told <= 1).all()


def test_content_columns_leave_out_what_is_absent_and_balance_modalities():
    values = np.random.default_rng(0).standard_normal((5, 3))
    present = np.array([True, True, False, True, True])
    huge = Features(1e4 * values, present)
    found = content_columns({"text": huge, "image": Features(np.nan_to_num(values), np.ones(5, dtype=bool))}, 5)
    assert found.shape == (5, 6)
    assert not found[2, 3:].any(), "text is the second in order, and missing there"
    assert np.square(found[:, 3:]).sum() / 4 == pytest.approx(1.0)
    assert np.square(found[:, :3]).sum() / 5 == pytest.approx(0.25)
    assert content_columns({}, 5).shape == (5, 0)
    lost = Features(np.full((5, 2), np.nan), np.zeros(5, dtype=bool))
    assert content_columns({"text": lost}, 5).shape == (5, 0)
