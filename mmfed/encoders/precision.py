"""Features in two bytes or one: what a catalogue's numbers are rounded to before everybody gets them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfed.config import Precision
from mmfed.errors import ExitCode, MmfedError
from mmfed.types import FloatArray

BYTES: dict[Precision, int] = {"float32": 4, "float16": 2, "int8": 1}
_STEPS = 127


@dataclass(frozen=True, eq=False)
class Quantised:
    """Vectors as whole numbers of a step of their own: a new item needs no other's numbers.

    Attributes:
        codes: [items, d] int8, -127 … 127.
        steps: [items] float32; 0 for a vector of zeros.
    """

    codes: np.ndarray
    steps: np.ndarray

    def values(self) -> np.ndarray:
        """[items, d] float32."""
        return self.codes * self.steps[:, None]


def quantised(values: FloatArray) -> Quantised:
    """The nearest whole steps, of which a vector's largest entry has 127; off by half a step at most.

    Args:
        values: [items, d], finite.
    """
    largest = np.abs(values).max(axis=1, initial=0.0).astype(np.float32)
    steps = largest / np.float32(_STEPS)
    codes = np.rint(values / np.where(steps > 0, steps, 1)[:, None]).clip(-_STEPS, _STEPS)
    return Quantised(codes.astype(np.int8), steps)


def rounded(values: FloatArray, precision: Precision) -> np.ndarray:
    """Values as they come back from storage in a precision, [items, d] float32.

    Raises:
        MmfedError: a value is beyond float16.
    """
    if precision == "int8":
        return quantised(values).values()
    if precision == "float32":
        return values.astype(np.float32, copy=False)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise MmfedError(
            ExitCode.FEATURES,
            f"features.precision = 'float16': a feature is {float(np.abs(values).max()):g}, beyond 65504.",
            "take 'int8' or 'float32', or set whiten = true for that modality.",
        )
    return half.astype(np.float32)


def stored_bytes(items: int, dimensions: int, precision: Precision) -> int:
    """Bytes of a catalogue's vectors (int8: and of their steps)."""
    return items * (dimensions * BYTES[precision] + (4 if precision == "int8" else 0))
