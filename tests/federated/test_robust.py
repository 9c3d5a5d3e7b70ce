"""Single updates made harmless: against other implementations, and what an outlier can still do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mmfed.config import DefenceSection
from mmfed.federated import robust
from mmfed.federated.robust import RowBound, centre, row_bound

MEDIAN = DefenceSection(aggregation="median")


def trimmed(share: float) -> DefenceSection:
    return DefenceSection(aggregation="trimmed-mean", trim=share)


@pytest.mark.parametrize("users", [1, 2, 3, 4, 7, 10, 25])
@pytest.mark.parametrize("block", [1, 3, 1 << 16])
def test_centres_agree_with_other_implementations(users: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robust, "_COORDINATES", block)
    updates = np.random.default_rng(users).normal(size=(users, 11))
    np.testing.assert_allclose(centre(list(updates), MEDIAN), np.median(updates, axis=0), rtol=1e-12)
    for share in (0.01, 0.1, 0.25, 0.4):
        expected = stats.trim_mean(updates, share, axis=0)
        np.testing.assert_allclose(centre(list(updates), trimmed(share)), expected, rtol=1e-12, atol=1e-15)


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 30), st.integers(0, 10_000), st.sampled_from([1e3, 1e30, 1e300]))
def test_a_minority_stays_within_what_the_others_say(users: int, seed: int, huge: float) -> None:
    generator = np.random.default_rng(seed)
    honest, hostile = generator.normal(size=(users, 5)), (users - 1) // 4
    forged = [np.full(5, huge * sign) for sign in generator.choice([-1, 1], hostile)]
    for section in (MEDIAN, trimmed(0.3)):
        found = centre([*honest, *forged], section)
        assert (found >= honest.min(axis=0)).all()
        assert (found <= honest.max(axis=0)).all()


def bound_of(shapes: dict[str, tuple[int, ...]], rows: list[str], bound: float = 1.0) -> RowBound:
    made = row_bound(DefenceSection(row_bound=bound), shapes, rows)
    assert made is not None
    return made


SHAPES = {"a.bias": (4,), "b.head": (3, 2), "c.ids": (4, 3)}


def test_an_items_rows_are_bounded_together_and_nothing_else_is() -> None:
    update = np.random.default_rng(0).normal(size=4 + 6 + 12) * 3
    found, scaled = bound_of(SHAPES, ["a.bias", "c.ids"]).applied(update)
    ids = slice(10, 22)
    before = np.concatenate([update[:4, None], update[ids].reshape(4, 3)], axis=1)
    after = np.concatenate([found[:4, None], found[ids].reshape(4, 3)], axis=1)
    norms = np.linalg.norm(before, axis=1)
    assert scaled == (norms > 1).sum() > 0
    np.testing.assert_allclose(after, before * np.minimum(1, 1 / norms)[:, None], rtol=1e-12)
    np.testing.assert_array_equal(found[4:10], update[4:10])


@pytest.mark.parametrize("size", [1e-200, 1e-3, 1e200, 1.7e308])
def test_rows_of_any_size_end_within_the_bound(size: float) -> None:
    bound = bound_of(SHAPES, ["a.bias", "c.ids"], 0.5)
    update = np.full(22, size)
    found, scaled = bound.applied(update)
    rows = found[bound.places]
    assert (np.linalg.norm(rows, axis=1) <= 0.5 * (1 + 1e-12)).all()
    assert scaled == (4 if size > 1 else 0)
    assert update[0] == size  # the update itself is left alone


def test_a_bound_never_lengthens_an_update() -> None:
    """A sum of clipped updates keeps its sensitivity."""
    bound = bound_of(SHAPES, ["c.ids"], 0.3)
    for seed in range(50):
        update = np.random.default_rng(seed).normal(size=22)
        assert np.linalg.norm(bound.applied(update)[0]) <= np.linalg.norm(update)


def test_no_bound_where_none_is_asked_or_no_parameter_has_rows() -> None:
    assert row_bound(DefenceSection(), SHAPES, ["c.ids"]) is None
    assert row_bound(DefenceSection(row_bound=1.0), SHAPES, []) is None
