"""Noise of the promised scale and no other, on every cell, and no user beyond the bounds."""

import math
import random
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mmfed.errors import MmfedError
from mmfed.privacy.counts import clip_contributions, discrete_laplace, release_counts

CELLS = 8_000


def noise(epsilon, *, max_cells=2, max_per_cell=3, seed=None):
    """The noise on empty cells: sensitivity 6 by default."""
    released = release_counts(
        [],
        np.zeros(0, dtype=int),
        size=CELLS,
        max_cells=max_cells,
        max_per_cell=max_per_cell,
        epsilon=epsilon,
        seed=seed,
    )
    return released.counts


def fits(samples, scale):
    """Whether the mean absolute value is that of discrete Laplace noise, within 5 standard errors (1 in 2 million)."""
    ratio = math.exp(-1 / scale)
    mean = 2 * ratio / (1 - ratio**2)
    square = 2 * ratio / (1 - ratio) ** 2
    return abs(np.abs(samples).mean() - mean) < 5 * math.sqrt((square - mean**2) / len(samples))


@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("epsilon", [0.5, 3.0])
def test_noise_has_its_scale_and_not_two_thirds_or_three_halves_of_it(epsilon, seed):
    samples = noise(epsilon, seed=seed)
    scale = 6 / epsilon
    assert fits(samples, scale)
    assert not fits(samples, scale * 2 / 3)
    assert not fits(samples, scale * 3 / 2)
    assert abs(samples.mean()) < 5 * samples.std() / math.sqrt(CELLS)


@pytest.mark.parametrize("scale", [Fraction(3, 2), Fraction(1, 2), Fraction(2) / Fraction(0.7)])
def test_samples_follow_the_law_value_by_value(scale):
    source = random.Random(11)
    drawn = Counter(discrete_laplace(scale, source) for _ in range(10_000))
    ratio = math.exp(-1 / scale)
    edge = max(z for z in range(60) if 10_000 * (1 - ratio) / (1 + ratio) * ratio**z > 20)
    law = [(1 - ratio) / (1 + ratio) * ratio ** abs(z) for z in range(-edge, edge + 1)]
    seen = [drawn[z] for z in range(-edge, edge + 1)]
    rest = 1 - sum(law)
    assert chisquare([*seen, 10_000 - sum(seen)], [10_000 * p for p in [*law, rest]]).pvalue > 1e-4


def test_secure_noise_differs_and_seeded_noise_repeats():
    assert not np.array_equal(noise(1.0), noise(1.0))
    assert np.array_equal(noise(1.0, seed=1), noise(1.0, seed=1))
    assert not np.array_equal(noise(1.0, seed=1), noise(1.0, seed=2))


ROWS = st.lists(st.tuples(st.sampled_from(["ann", "bob", 7]), st.integers(0, 4)), max_size=40)


@given(ROWS, st.integers(1, 4), st.integers(1, 3), st.sampled_from(["ann", "bob", 7]))
@settings(max_examples=150, deadline=None)
def test_a_user_changes_the_counts_by_at_most_the_sensitivity(rows, max_cells, max_per_cell, gone):
    def counts(kept):
        return clip_contributions(
            [user for user, _ in kept], np.array([cell for _, cell in kept], dtype=int),
            size=5, max_cells=max_cells, max_per_cell=max_per_cell,
        )  # fmt: skip

    own = [row for row in rows if row[0] == gone]
    difference = counts(rows) - counts([row for row in rows if row[0] != gone])
    assert np.array_equal(difference, counts(own))  # the others keep theirs
    assert np.abs(difference).sum() <= max_cells * max_per_cell
    assert np.count_nonzero(difference) == min(max_cells, len({cell for _, cell in own}))
    assert np.array_equal(counts(rows), counts(sorted(rows, key=str)))


def test_the_fullest_cells_stay_and_ties_favour_no_cell():
    users = [user for user in range(20) for _ in range(6)]
    cells = [0, 1, 1, 1, 2, 2] * 20
    assert clip_contributions(users, cells, size=4, max_cells=2, max_per_cell=2).tolist() == [0, 40, 40, 0]
    people = [user for user in range(600) for _ in range(3)]
    tied = clip_contributions(people, [0, 1, 2] * 600, size=3, max_cells=1, max_per_cell=1)
    assert tied.sum() == 600
    assert tied.min() > 140  # 200 expected, standard deviation 11.5


def test_a_release_says_what_it_promises():
    released = release_counts(["ann"], [1], size=3, max_cells=2, max_per_cell=3, epsilon=0.5, seed=0)
    assert (released.sensitivity, released.scale, released.epsilon) == (6, 12.0, 0.5)
    assert released.counts.shape == (3,)
    assert released.counts.dtype == np.int64
    assert "one user" in released.sentence()
    assert "add/remove" in released.sentence()
    assert "protects nobody" in released.sentence()
    exact = release_counts(["ann"], [1], size=3, max_cells=1, max_per_cell=1, epsilon=60.0)
    assert exact.counts.tolist() == [0, 1, 0]
    assert "operating system" in exact.sentence()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon = 0"),
        ({"epsilon": math.inf}, "epsilon = inf"),
        ({"epsilon": 1e-300}, "outgrow"),
        ({"size": 0}, "size = 0"),
        ({"max_cells": 0}, "max_cells"),
        ({"max_per_cell": 1.5}, "max_per_cell"),
        ({"cells": [3]}, "cells outside"),
        ({"cells": [-1]}, "cells outside"),
        ({"cells": [0.0]}, "cells outside"),
        ({"users": ["ann", "bob"]}, "2 users"),
    ],
)
def test_what_is_refused(change, message):
    arguments = {"users": ["ann"], "cells": [1], "size": 3, "max_cells": 1, "max_per_cell": 1, "epsilon": 1.0, **change}
    users, cells = arguments.pop("users"), arguments.pop("cells")
    with pytest.raises(MmfedError, match=message):
        release_counts(users, cells, **arguments)
