"""Rating prediction: MSE, RMSE, MAE and Pearson correlation over all test pairs."""

from __future__ import annotations

import math

import numpy as np

from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.accuracy import sum_by_user
from mmfed.evaluation.intervals import RESAMPLE_CELLS, Estimate, resampling_weights, undefined
from mmfed.rng import numpy_generator
from mmfed.types import FloatArray, IntArray


def mse(predicted: FloatArray, actual: FloatArray) -> float:
    """Mean squared error over all pairs [pairs]."""
    return float(np.mean(_errors(predicted, actual) ** 2))


def rmse(predicted: FloatArray, actual: FloatArray) -> float:
    """Root of the mean squared error over all pairs [pairs] (not a mean of per-user roots)."""
    return math.sqrt(mse(predicted, actual))


def mae(predicted: FloatArray, actual: FloatArray) -> float:
    """Mean absolute error over all pairs [pairs]."""
    return float(np.mean(np.abs(_errors(predicted, actual))))


def pcc(predicted: FloatArray, actual: FloatArray) -> float:
    """Pearson correlation over all pairs [pairs]; NaN where it is undefined (``pcc_undefined`` says why)."""
    _errors(predicted, actual)
    if pcc_undefined(predicted, actual):
        return math.nan
    return float(np.clip(np.corrcoef(np.asarray(predicted, np.float64), np.asarray(actual, np.float64))[0, 1], -1, 1))


def pcc_undefined(predicted: FloatArray, actual: FloatArray) -> str:
    """Why the correlation does not exist; empty where it does."""
    if len(predicted) < 2:
        return "fewer than two pairs"
    if np.ptp(predicted) == 0:
        return "every prediction is the same"
    if np.ptp(actual) == 0:
        return "every rating is the same"
    return ""


def evaluate_rating(
    predicted: FloatArray,
    actual: FloatArray,
    *,
    users: IntArray | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """All four with 95 % bootstrap intervals: {"mse", "rmse", "mae", "pcc"}.

    Args:
        predicted, actual: [pairs].
        users: [pairs] who gave each rating; resampled whole, since a person's ratings are not independent.
            None resamples pairs.

    Raises:
        MmfedError: no pairs, different lengths, or a value that is not finite.
    """
    errors = _errors(predicted, actual)
    owner = np.arange(len(errors)) if users is None else np.unique(users, return_inverse=True)[1]
    predicted, actual = np.asarray(predicted, np.float64), np.asarray(actual, np.float64)
    # Centred, so that variances from sums do not cancel.
    p, a = predicted - predicted.mean(), actual - actual.mean()
    columns = (np.ones(len(errors)), errors**2, np.abs(errors), p, a, p * p, a * a, p * a)
    sums = np.stack([sum_by_user(owner, column, int(owner.max()) + 1) for column in columns], axis=1)
    values = {"mse": mse(predicted, actual), "mae": mae(predicted, actual), "pcc": pcc(predicted, actual)}
    values["rmse"] = math.sqrt(values["mse"])
    bounds = _bounds(sums, resamples, seed) if resamples > 0 and len(sums) > 1 else {}
    return {name: _estimate(name, values[name], bounds, predicted, actual) for name in ("mse", "rmse", "mae", "pcc")}


def _estimate(
    name: str, value: float, bounds: dict[str, tuple[float, float]], predicted: FloatArray, actual: FloatArray
) -> Estimate:
    if math.isnan(value):
        return undefined(pcc_undefined(predicted, actual))
    if name not in bounds:
        return Estimate(value, users=len(predicted), reason="no interval: no resamples, or one user only")
    return Estimate(value, *bounds[name], len(predicted))


def _bounds(sums: FloatArray, resamples: int, seed: int) -> dict[str, tuple[float, float]]:
    """Percentile bounds from per-user sums [users, (n, e², |e|, p, a, p², a², pa)]."""
    generator = numpy_generator(seed, "bootstrap", "rating")
    at_once = max(1, RESAMPLE_CELLS // len(sums))
    totals = np.concatenate(
        [
            resampling_weights(len(sums), min(at_once, resamples - start), generator) @ sums
            for start in range(0, resamples, at_once)
        ]
    )
    n, squared, absolute, p, a, pp, aa, pa = totals.T
    covariance = pa / n - p * a / n**2
    variances = (pp / n - (p / n) ** 2) * (aa / n - (a / n) ** 2)
    defined = variances > 1e-12 * max(1e-300, float(np.max(np.abs(variances))))
    correlation = np.divide(
        covariance, np.sqrt(np.where(defined, variances, 1.0)), where=defined, out=np.full(len(n), np.nan)
    )
    draws = {"mse": squared / n, "rmse": np.sqrt(squared / n), "mae": absolute / n, "pcc": np.clip(correlation, -1, 1)}
    bounds: dict[str, tuple[float, float]] = {}
    for name, values in draws.items():
        if not np.isnan(values).all():
            low, high = np.nanquantile(values, [0.025, 0.975])
            bounds[name] = (float(low), float(high))
    return bounds


def _errors(predicted: FloatArray, actual: FloatArray) -> FloatArray:
    predicted, actual = np.asarray(predicted, np.float64), np.asarray(actual, np.float64)
    if predicted.shape != actual.shape or predicted.ndim != 1 or len(predicted) == 0:
        raise MmfedError(
            ExitCode.FAULT,
            f"predictions {predicted.shape} and ratings {actual.shape} are no matching, non-empty lists.",
            "pass one prediction per test pair.",
        )
    bad = ~(np.isfinite(predicted) & np.isfinite(actual))
    if bad.any():
        raise MmfedError(
            ExitCode.FAULT,
            f"pair {int(np.flatnonzero(bad)[0])}: prediction or rating is not finite ({int(bad.sum())} such pairs).",
            "leave out interactions without a rating; a NaN prediction means the model diverged.",
        )
    return predicted - actual
