from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.encoders.reduce import Reduction, fit_reduction
from mmfed.errors import MmfedError


def correlated(rows: int, width: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (
        generator.normal(size=(rows, width)) @ generator.normal(size=(width, width)) + generator.normal(size=width) * 5
    )


@pytest.mark.parametrize(("rows", "width"), [(200, 6), (7, 12)])
@pytest.mark.parametrize("whiten", [True, False])
def test_agrees_with_the_eigen_decomposition_of_the_covariance(rows: int, width: int, whiten: bool) -> None:
    values = correlated(rows, width)
    kept = 4
    eigenvalues, vectors = np.linalg.eigh(np.cov(values.T))
    eigenvalues, vectors = eigenvalues[::-1][:kept], vectors[:, ::-1][:, :kept]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(kept)])
    expected = (values - values.mean(0)) @ vectors / (np.sqrt(eigenvalues) if whiten else 1.0)
    reduction = fit_reduction(values, np.ones(rows, dtype=bool), kept, whiten)
    np.testing.assert_allclose(reduction.variances, eigenvalues, rtol=1e-9)
    np.testing.assert_allclose(reduction.apply(values, np.ones(rows, dtype=bool)), expected, rtol=1e-4, atol=1e-5)
    assert reduction.explained == pytest.approx(eigenvalues.sum() / np.trace(np.cov(values.T)))


def test_golden_whitening_of_four_points() -> None:
    # Variances 2/3 · 4 along x and 2/3 along y, by hand: whitened coordinates are ±√(3/2).
    points = np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    reduction = fit_reduction(points, np.ones(4, dtype=bool), None, True)
    root = np.sqrt(1.5)
    expected = np.array([[root, 0.0], [-root, 0.0], [0.0, root], [0.0, -root]])
    np.testing.assert_allclose(reduction.apply(points, np.ones(4, dtype=bool)), expected, atol=1e-6)
    np.testing.assert_allclose(reduction.variances, [8 / 3, 2 / 3])


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(3, 30), width=st.integers(1, 12), rank=st.integers(1, 12), seed=st.integers(0, 10_000))
def test_whitened_rows_have_unit_covariance_whatever_the_rank(rows: int, width: int, rank: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(rows, rank)) @ generator.normal(size=(rank, width)) + 3.0
    everyone = np.ones(rows, dtype=bool)
    reduction = fit_reduction(values, everyone, None, True)
    assert reduction.dimensions == min(rank, width, rows - 1)
    reduced = reduction.apply(values, everyone).astype(np.float64)
    np.testing.assert_allclose(np.atleast_2d(np.cov(reduced.T)), np.eye(reduction.dimensions), atol=1e-3)


def test_absent_rows_do_not_count_and_come_out_as_zero() -> None:
    values = correlated(50, 5)
    present = np.arange(50) % 3 != 0
    spoiled = values.copy()
    spoiled[~present] = np.nan
    reduction = fit_reduction(spoiled, present, 3, True)
    alone = fit_reduction(values[present], np.ones(int(present.sum()), dtype=bool), 3, True)
    np.testing.assert_allclose(reduction.directions, alone.directions)
    reduced = reduction.apply(spoiled, present)
    assert (reduced[~present] == 0).all()
    assert np.isfinite(reduced).all()
    assert np.abs(reduced[present]).min() > 0


def test_constant_columns_add_no_direction() -> None:
    values = np.concatenate([correlated(40, 3), np.full((40, 4), 7.7)], axis=1)
    reduction = fit_reduction(values, np.ones(40, dtype=bool), 6, True)
    assert reduction.dimensions == 3
    np.testing.assert_allclose(reduction.directions[3:], 0.0, atol=1e-9)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_nothing_to_learn_from_gives_no_dimension(rows: int) -> None:
    values = np.full((5, 4), 2.5, dtype=np.float16)
    reduction = fit_reduction(values, np.arange(5) < rows, 3, True)
    assert reduction.apply(values, np.ones(5, dtype=bool)).shape == (5, 0)


def test_signs_do_not_depend_on_the_order_of_rows() -> None:
    values = correlated(60, 8)
    everyone = np.ones(60, dtype=bool)
    forward = fit_reduction(values, everyone, 5, False)
    backward = fit_reduction(values[::-1], everyone, 5, False)
    np.testing.assert_allclose(forward.directions, backward.directions, atol=1e-8)
    strongest = forward.directions[np.abs(forward.directions).argmax(0), np.arange(5)]
    assert (strongest > 0).all()


def test_many_blocks_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values, everyone = correlated(100, 4), np.ones(100, dtype=bool)
    whole = fit_reduction(values, everyone, 3, True)
    monkeypatch.setattr("mmfed.encoders.reduce._BLOCK", 7)
    pieces = fit_reduction(values, everyone, 3, True)
    np.testing.assert_allclose(pieces.directions, whole.directions, rtol=1e-8)
    np.testing.assert_allclose(pieces.apply(values, everyone), whole.apply(values, everyone), rtol=1e-5)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_present_rows_must_be_finite(broken: float) -> None:
    values = correlated(10, 3)
    values[4, 1] = broken
    with pytest.raises(ValueError, match="NaN or infinity"):
        fit_reduction(values, np.ones(10, dtype=bool), 2, True)


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        fit_reduction(np.zeros((3, 2)), np.ones(4, dtype=bool), 2, True)
    with pytest.raises(ValueError, match="at least 1"):
        fit_reduction(np.zeros((3, 2)), np.ones(3, dtype=bool), 0, True)
    reduction = fit_reduction(correlated(9, 3), np.ones(9, dtype=bool), 2, True)
    with pytest.raises(ValueError, match="do not fit"):
        reduction.apply(np.zeros((3, 2)), np.ones(3, dtype=bool))


def test_saved_and_read_back(tmp_path: Path) -> None:
    values, everyone = correlated(30, 6), np.ones(30, dtype=bool)
    reduction = fit_reduction(values, everyone, 4, True)
    path = tmp_path / "image.safetensors"
    reduction.save(path)
    again = Reduction.load(path)
    assert (again.whitened, again.explained) == (True, reduction.explained)
    np.testing.assert_array_equal(again.apply(values, everyone), reduction.apply(values, everyone))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(MmfedError, match="not a saved reduction"):
        Reduction.load(path)
