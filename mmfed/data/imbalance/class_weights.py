"""Weights per class instead of more or fewer records: a person's records stay what they are."""

from __future__ import annotations

from typing import Literal

import numpy as np

from mmfed.errors import ExitCode, MmfedError
from mmfed.types import FloatArray, IntArray

Weighting = Literal["none", "balanced", "effective-number"]


def class_weights(
    labels: IntArray, class_count: int, *, weighting: Weighting = "balanced", beta: float = 0.999
) -> FloatArray:
    """[classes] weight of a record of each class, 0 for a class without records; the mean weight of a record is 1.

    Args:
        labels: [records] class of each record, 0 to ``class_count`` - 1.
        weighting: "balanced" gives every class the same total; "effective-number" weighs by the inverse of
            (1 - beta ** n) / (1 - beta), which lifts rare classes less (Cui et al. 2019, section 3).
        beta: of the effective number, in [0, 1); 0 gives equal weights.

    Raises:
        MmfedError: no records, a label out of range, or beta out of range.
    """
    labels = np.asarray(labels)
    if not len(labels) or labels.min() < 0 or labels.max() >= class_count:
        raise MmfedError(
            ExitCode.DATA,
            f"class weights need labels from 0 to {class_count - 1}; "
            + (f"{labels.min()} to {labels.max()} were given." if len(labels) else "none were given."),
            "leave out rows without a class, and train on at least one row.",
        )
    if not 0 <= beta < 1:
        raise MmfedError(ExitCode.CONFIG, f"beta = {beta!r}: not allowed.", "use a number from 0 to below 1.")
    counts = np.bincount(labels, minlength=class_count).astype(np.float64)
    present = counts > 0
    weights = present.astype(np.float64)
    if weighting == "balanced":
        weights[present] = 1.0 / counts[present]
    elif weighting == "effective-number":
        weights[present] = (1.0 - beta) / (1.0 - beta ** counts[present])
    elif weighting != "none":
        raise MmfedError(
            ExitCode.CONFIG, f"weighting {weighting!r}: unknown.", "use 'none', 'balanced' or 'effective-number'."
        )
    return weights * (counts.sum() / (weights * counts).sum())
