"""How far two updates are from each other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor

Values = Mapping[str, Tensor] | Mapping[str, npt.NDArray[np.generic]]


def relative(found: Values, expected: Values) -> float:
    """Norm of the difference over the norm of the expected update; a name that is not found counts as zeros."""
    away = size = 0.0
    for name, wanted in expected.items():
        value = np.asarray(wanted, dtype=np.float64)
        other = np.asarray(found[name], dtype=np.float64) if name in found else np.zeros_like(value)
        away += float(np.square(other - value).sum())
        size += float(np.square(value).sum())
    if found.keys() - expected.keys():
        return float("inf")
    return float(np.sqrt(away / size)) if size else float("nan")
