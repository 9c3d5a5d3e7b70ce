"""Private alternating least squares: exact sensitivity by brute force, noise with its law, and a fit that is one."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from mmfed.errors import MmfedError
from mmfed.models.private_als import (
    AlsSettings,
    chosen_items,
    fit_items,
    item_factors,
    packed_outer,
    positive,
    sensitivity,
    statistics,
    unpacked,
    user_factors,
)
from mmfed.privacy.mechanisms import SeededNoise

SMALL = AlsSettings(rank=3, rounds=1, items_per_user=2, items=4, unseen=0.5, ridge=2.0)


def direct(factors: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A, b and G by loops."""
    users, rank = factors.shape
    sums, targets, gram = (
        np.zeros((chosen.shape[1], rank, rank)),
        np.zeros((chosen.shape[1], rank)),
        np.zeros((rank, rank)),
    )
    for user in range(users):
        gram += np.outer(factors[user], factors[user])
        for item in np.flatnonzero(chosen[user]):
            sums[item] += np.outer(factors[user], factors[user])
            targets[item] += factors[user]
    return sums, targets, gram


def drawn(users: int, items: int, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    factors = generator.standard_normal((users, 3))
    factors /= np.maximum(np.linalg.norm(factors, axis=1, keepdims=True), 1.0)
    chosen = np.zeros((users, items))
    for row in chosen:
        row[generator.permutation(items)[: generator.integers(0, most + 1)]] = 1
    return factors, chosen


class TestSensitivity:
    @settings(max_examples=60, deadline=None)
    @given(seed=st.integers(0, 10**6), most=st.integers(1, 5))
    def test_taking_a_user_out_moves_the_sum_by_no_more(self, seed: int, most: int) -> None:
        factors, chosen = drawn(6, 5, most, seed)
        whole = statistics(factors, sparse.csr_array(chosen), items_per_user=most)
        for user in range(6):
            rest = np.delete(np.arange(6), user)
            without = statistics(factors[rest], sparse.csr_array(chosen[rest]), items_per_user=most)
            length, count = np.linalg.norm(factors[user]), chosen[user].sum()
            moved = np.linalg.norm(whole - without)
            assert moved == pytest.approx(math.sqrt(count * (length**4 + length**2) + length**4), abs=1e-12)
            assert moved <= sensitivity(most) + 1e-12

    @pytest.mark.parametrize("most", [1, 2, 4])
    def test_it_is_reached_and_by_every_choice_of_items(self, most: int) -> None:
        """Exhaustively: each set of at most k of four items, each of several directions of norm 1."""
        found = [
            np.linalg.norm(
                statistics(u[None], sparse.csr_array(np.isin(np.arange(4), kept)[None] * 1.0), items_per_user=most)
            )
            for size in range(most + 1)
            for kept in combinations(range(4), size)
            for u in (np.array([1.0, 0, 0]), np.array([0.6, 0.8, 0]), np.full(3, 3**-0.5))
        ]
        assert max(found) == pytest.approx(sensitivity(most), abs=1e-12)

    def test_bounds_are_enforced(self) -> None:
        one = sparse.csr_array(np.ones((1, 4)))
        with pytest.raises(MmfedError, match="more than 3 items"):
            statistics(np.ones((1, 3)), one, items_per_user=3)
        with pytest.raises(MmfedError, match="not by 1"):
            statistics(np.ones((1, 3)), one * 2.0, items_per_user=4)
        long = statistics(np.full((1, 3), 1e6), one, items_per_user=4)
        assert np.linalg.norm(long) == pytest.approx(sensitivity(4))
        assert not statistics(np.array([[np.nan, 1.0, 0.0]]), one, items_per_user=4).any()


class TestTheSums:
    def test_they_are_those_of_loops_and_unpack_again(self) -> None:
        factors, chosen = drawn(9, 5, 3, 1)
        found = unpacked(statistics(factors, sparse.csr_array(chosen), items_per_user=3), items=5, rank=3)
        for one, other in zip(found, direct(factors, chosen), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-12)

    def test_packing_keeps_the_norm(self) -> None:
        factors = np.random.default_rng(0).standard_normal((5, 4))
        np.testing.assert_allclose(
            np.linalg.norm(packed_outer(factors), axis=1), np.linalg.norm(factors, axis=1) ** 2, rtol=1e-12
        )

    def test_the_projection_is_the_nearest_positive_matrix(self) -> None:
        generator = np.random.default_rng(2)
        matrix = generator.standard_normal((4, 4))
        matrix += matrix.T
        nearest = positive(matrix)
        assert np.linalg.eigvalsh(nearest).min() > -1e-12
        np.testing.assert_allclose(positive(nearest), nearest, atol=1e-12)
        for _ in range(200):
            other = generator.standard_normal((4, 4))
            other = other @ other.T * generator.exponential()
            assert np.linalg.norm(other - matrix) >= np.linalg.norm(nearest - matrix) - 1e-12


class TestTheNoise:
    @pytest.mark.parametrize("rounds", [1, 3])
    def test_every_coordinate_of_every_round_has_it_with_power(self, rounds: int, monkeypatch) -> None:
        """What goes into the items' solution minus what users gave: N(0, σ² (2k + 1)); 2/3 and 3/2 are told apart."""
        from mmfed.models import private_als

        weights = sparse.csr_array((np.random.default_rng(1).random((30, 400)) < 0.02) * 1.0)
        exact, used = [], []
        monkeypatch.setattr(private_als, "statistics", lambda *a, **k: exact.append(statistics(*a, **k)) or exact[-1])
        monkeypatch.setattr(private_als, "item_factors", lambda s, *a, **k: used.append(s) or item_factors(s, *a, **k))
        start = np.random.default_rng(2).standard_normal((400, 3))
        run = replace(SMALL, rounds=rounds, items_per_user=4)
        fit_items(weights, np.ones(400), start, run, noise_multiplier=0.8, noise=SeededNoise(5))
        noises = [noisy - plain for noisy, plain in zip(used, exact, strict=True)]
        assert len(noises) == rounds
        for noise in noises:
            for factor, right in ((1.0, True), (2 / 3, False), (1.5, False)):
                assert (stats.kstest(noise, "norm", args=(0, factor * 0.8 * 3.0)).pvalue > 1e-5) == right
        if rounds > 1:
            assert abs(np.corrcoef(noises[0], noises[1])[0, 1]) < 0.1, "a fresh draw in every round"
        matrices = unpacked(noises[0], items=400, rank=3)[0]
        assert np.array_equal(matrices, np.swapaxes(matrices, 1, 2))
        for part, scale in ((matrices[:, 0, 0], 1.0), (matrices[:, 0, 1], math.sqrt(0.5))):
            assert stats.kstest(part, "norm", args=(0, scale * 2.4)).pvalue > 1e-5

    def test_without_noise_there_is_none(self) -> None:
        weights = sparse.csr_array(np.eye(4))
        start = np.ones((4, 3))
        quiet = fit_items(weights, np.ones(4), start, SMALL, noise_multiplier=0.0, noise=SeededNoise(5))
        loud = fit_items(weights, np.ones(4), start, SMALL, noise_multiplier=1.0, noise=SeededNoise(5))
        assert not np.allclose(quiet, loud)


class TestTheFit:
    def test_item_factors_solve_their_normal_equations(self) -> None:
        factors, chosen = drawn(9, 4, 2, 3)
        found = item_factors(statistics(factors, sparse.csr_array(chosen), items_per_user=2), SMALL, items=4)
        sums, targets, gram = direct(factors, chosen)
        for item in range(4):
            system = sums[item] + 0.5 * gram + 2.0 * np.eye(3)
            np.testing.assert_allclose(system @ found[item], targets[item], atol=1e-10)

    def test_user_factors_have_norm_1_and_none_without_events(self) -> None:
        weights = sparse.csr_array(np.array([[1.0, 0.8, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
        items = np.random.default_rng(0).standard_normal((4, 3))
        found = user_factors(weights, items, SMALL)
        assert np.linalg.norm(found, axis=1) == pytest.approx([1.0, 0.0])
        np.testing.assert_allclose(user_factors(weights, 100 * items, SMALL), found, atol=1e-10)

    def test_a_user_weights_the_rarest_or_the_latest(self) -> None:
        weights = sparse.csr_array(np.array([[0.5, 1.0, 0.7, 0.0]]))
        counts = np.array([1.0, 9.0, 5.0, 0.0])
        for choice, kept in (("rarest", [0, 2]), ("latest", [1, 2])):
            found = chosen_items(weights, counts, replace(SMALL, choice=choice))
            assert sorted(found.indices) == kept
        assert not chosen_items(sparse.csr_array((3, 4)), counts, SMALL).nnz

    def test_two_groups_are_found_through_noise_of_many_people(self) -> None:
        generator = np.random.default_rng(4)
        group = np.arange(6000) % 2
        likes = generator.random((6000, 20)) < np.where((np.arange(20) % 2)[None] == group[:, None], 0.4, 0.02)
        run = replace(SMALL, rounds=2, items_per_user=5, ridge=20.0)
        start = generator.standard_normal((20, 3))
        weights = sparse.csr_array(likes * 1.0)
        found = fit_items(weights, np.ones(20), start, run, noise_multiplier=3.0, noise=SeededNoise(1))
        scores = user_factors(weights, found, run) @ found.T
        own = np.mean([scores[u, group[u] :: 2].mean() - scores[u, 1 - group[u] :: 2].mean() for u in range(200)])
        assert own > 0
        right = (scores[:, 0::2].mean(1) > scores[:, 1::2].mean(1)) == (group == 0)
        assert right.mean() > 0.9
