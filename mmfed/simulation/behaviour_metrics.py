"""Test figures of a behaviour classifier, with 95 % bootstrap intervals over users.

A person's rows are not independent, so people are resampled, not rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.intervals import RESAMPLE_CELLS, Estimate, resampling_weights, undefined
from mmfed.rng import numpy_generator
from mmfed.types import FloatArray, IntArray


def behaviour_metrics(
    probabilities: FloatArray,
    labels: IntArray,
    users: IntArray,
    classes: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """``accuracy``, ``balanced_accuracy``, ``macro_f1``, and ``recall/<class>`` and ``average_precision/<class>``.

    A prediction is the most probable class (ties: the first). Balanced accuracy is the mean recall of the classes that
    occur; macro-F1 the mean over classes that occur or are predicted; average precision is one against the rest, with
    tied scores taken together.

    Args:
        probabilities: [rows, classes].
        labels: [rows] index into ``classes``.
        users: [rows] who acted.
        resamples: 0 gives no intervals.

    Raises:
        MmfedError: no rows, shapes that do not belong together, or a probability that is not finite.
    """
    rows = len(labels)
    if not rows or probabilities.shape != (rows, len(classes)) or np.shape(users) != (rows,):
        raise MmfedError(
            ExitCode.DATA,
            f"probabilities {probabilities.shape}, {rows} labels and {len(users)} users give no figures.",
            "test on at least one row, with one probability per class.",
        )
    if not np.isfinite(probabilities).all():
        raise MmfedError(ExitCode.FAULT, "a probability is not finite.", "check the classifier's training rows.")
    owner = np.unique(users, return_inverse=True)[1]
    people = int(owner.max()) + 1
    values = _figures(probabilities, labels, owner, np.ones((1, people)), classes)
    bounds = {}
    if resamples and people > 1:
        generator = numpy_generator(seed, "bootstrap", "behaviour")
        at_once = max(1, RESAMPLE_CELLS // max(rows, people))
        draws: dict[str, list[FloatArray]] = {name: [] for name in values}
        for start in range(0, resamples, at_once):
            weights = resampling_weights(people, min(at_once, resamples - start), generator)
            for name, drawn in _figures(probabilities, labels, owner, weights, classes).items():
                draws[name].append(drawn)
        for name, parts in draws.items():
            drawn = np.concatenate(parts)
            drawn = drawn[~np.isnan(drawn)]
            if len(drawn):
                low, high = np.quantile(drawn, [0.025, 0.975])
                bounds[name] = (float(low), float(high))
    return {name: _estimate(name, float(value[0]), bounds, people) for name, value in values.items()}


def _estimate(name: str, value: float, bounds: dict[str, tuple[float, float]], people: int) -> Estimate:
    if math.isnan(value):
        return undefined(f"no test row of the class {name.partition('/')[2]}")
    if name not in bounds:
        return Estimate(value, users=people, reason="no interval: no resamples, or one user only")
    return Estimate(value, *bounds[name], people)


def _figures(
    probabilities: FloatArray, labels: IntArray, owner: IntArray, weights: FloatArray, classes: Sequence[str]
) -> dict[str, FloatArray]:
    """Every metric for every weighting of the users: name -> [resamples]; NaN where undefined."""
    count, people = len(classes), weights.shape[1]
    cells = (owner * count + labels) * count + probabilities.argmax(axis=1)
    confusion = np.bincount(cells, minlength=people * count * count).reshape(people, count * count)
    totals = (weights @ confusion).reshape(len(weights), count, count)  # [resamples, actual, predicted]
    hits = np.diagonal(totals, axis1=1, axis2=2)
    actual, predicted = totals.sum(axis=2), totals.sum(axis=1)
    recall = _ratio(hits, actual)
    # 2 TP / (actual + predicted): the harmonic mean of precision and recall, 0 without a hit
    f1 = _ratio(2 * hits, actual + predicted)
    figures = {
        "accuracy": hits.sum(axis=1) / totals.sum(axis=(1, 2)),
        "balanced_accuracy": _mean_defined(recall),
        "macro_f1": _mean_defined(f1),
    }
    for index, name in enumerate(classes):
        figures[f"recall/{name}"] = recall[:, index]
    for index, name in enumerate(classes):
        figures[f"average_precision/{name}"] = _average_precision(
            probabilities[:, index], labels == index, weights[:, owner]
        )
    return figures


def _average_precision(scores: FloatArray, relevant: np.ndarray, weights: FloatArray) -> FloatArray:
    """[resamples] sum over thresholds of precision times the gain in recall; ``weights`` is [resamples, rows]."""
    order = np.argsort(-scores, kind="stable")
    arranged = scores[order]
    ends = np.flatnonzero(np.append(arranged[1:] != arranged[:-1], True))  # last row of each run of equal scores
    drawn = weights[:, order]
    found = np.cumsum(drawn * relevant[order], axis=1)[:, ends]
    shown = np.cumsum(drawn, axis=1)[:, ends]
    gains = np.diff(found, axis=1, prepend=0.0)
    return _ratio((_ratio(found, shown, empty=0.0) * gains).sum(axis=1), found[:, -1])


def _ratio(above: FloatArray, below: FloatArray, *, empty: float = np.nan) -> FloatArray:
    return np.divide(above, below, out=np.full(np.shape(above), empty, dtype=np.float64), where=below > 0)


def _mean_defined(values: FloatArray) -> FloatArray:
    """[resamples] mean over the classes for which the value exists."""
    defined = ~np.isnan(values)
    return np.where(defined, values, 0.0).sum(axis=1) / defined.sum(axis=1)
