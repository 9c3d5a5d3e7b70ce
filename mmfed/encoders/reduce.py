"""PCA and whitening of frozen features, fitted on the public catalogue only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mmfed.errors import ExitCode, MmfedError
from mmfed.records import write_bytes
from mmfed.types import BoolArray, FloatArray

_BLOCK = 8192  # rows held in float64 at a time


@dataclass(frozen=True, eq=False)
class Reduction:
    """An affine map ``(x - mean) @ directions``.

    Attributes:
        mean: [d] float64.
        directions: [d, k] float64; orthonormal columns, divided by the standard deviation when whitened.
        variances: [k] float64, variance along each kept direction before whitening (divisor n - 1), decreasing.
        explained: share of the total variance that the kept directions carry.
        whitened: whether ``directions`` yield unit variance.
    """

    mean: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    explained: float
    whitened: bool

    @property
    def dimensions(self) -> int:
        """Width of the reduced vectors; less than asked for where the features have lower rank."""
        return self.directions.shape[1]

    def apply(self, values: FloatArray, present: BoolArray) -> np.ndarray:
        """Reduced vectors, [items, k] float32; rows of absent items are zero and must stay masked."""
        if values.ndim != 2 or values.shape[1] != len(self.mean) or present.shape != (len(values),):
            raise ValueError(f"values {values.shape} and presence {present.shape} do not fit mean {self.mean.shape}")
        reduced = np.zeros((len(values), self.dimensions), dtype=np.float32)
        rows = np.flatnonzero(present)
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            reduced[block] = (values[block].astype(np.float64) - self.mean) @ self.directions
        return reduced

    def save(self, path: Path) -> None:
        """Write as safetensors, atomically."""
        tensors = {"mean": self.mean, "directions": np.ascontiguousarray(self.directions), "variances": self.variances}
        about = json.dumps({"explained": self.explained, "whitened": self.whitened})
        write_bytes(path, save(tensors, metadata={"reduction": about}))

    @classmethod
    def load(cls, path: Path) -> Reduction:
        """Read what ``save`` wrote.

        Raises:
            MmfedError: the file is missing, damaged or something else.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                about = json.loads((file.metadata() or {})["reduction"])
                mean, directions, variances = (file.get_tensor(k) for k in ("mean", "directions", "variances"))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise MmfedError(
                ExitCode.FEATURES,
                f"{path}: not a saved reduction ({error}).",
                "delete it and build the features again.",
            ) from None
        return cls(mean, directions, variances, float(about["explained"]), bool(about["whitened"]))


def fit_reduction(values: FloatArray, present: BoolArray, dimensions: int | None, whiten: bool) -> Reduction:
    """Principal directions of the present rows.

    Signs are fixed by making the entry of largest magnitude in each direction positive. Directions without variance
    (constant columns, fewer rows than columns, linear dependence) are dropped, so whitening never divides by nothing.

    Args:
        values: [items, d] floating; absent rows are not looked at.
        present: [items] bool.
        dimensions: how many directions to keep at most; None keeps all that vary.
        whiten: scale every kept direction to unit variance.

    Raises:
        ValueError: shapes do not match, or a present row is not finite.
    """
    if values.ndim != 2 or present.shape != (len(values),):
        raise ValueError(f"values {values.shape} and presence {present.shape} do not belong together")
    if dimensions is not None and dimensions < 1:
        raise ValueError(f"dimensions must be at least 1, not {dimensions}")
    rows = np.flatnonzero(present)
    count, width = len(rows), values.shape[1]
    mean = _mean(values, rows)
    if not np.isfinite(mean).all():
        raise ValueError("a present row holds NaN or infinity")
    if count < 2:
        return Reduction(mean, np.zeros((width, 0)), np.zeros(0), 0.0, whiten)
    variances, directions = _principal(values, rows, mean)
    total = float(variances.sum())
    kept = variances > variances[0] * max(count, width) * np.finfo(np.float64).eps if total > 0 else variances > 0
    keep = min(int(kept.sum()), dimensions or width)
    variances, directions = variances[:keep], directions[:, :keep]
    strongest = np.abs(directions).argmax(axis=0)
    directions = directions * np.where(directions[strongest, np.arange(keep)] < 0, -1.0, 1.0)
    explained = float(variances.sum()) / total if total > 0 else 0.0
    scaled = directions / np.sqrt(variances) if whiten else directions
    return Reduction(mean, scaled, variances, explained, whiten)


def _mean(values: FloatArray, rows: np.ndarray) -> np.ndarray:
    total = np.zeros(values.shape[1])
    for start in range(0, len(rows), _BLOCK):
        total += values[rows[start : start + _BLOCK]].astype(np.float64).sum(axis=0)
    return total / max(len(rows), 1)


def _principal(values: FloatArray, rows: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances (decreasing) and orthonormal directions of the centred rows."""
    count, width = len(rows), values.shape[1]
    if count <= width:
        centred = values[rows].astype(np.float64) - mean
        _, singular, transposed = np.linalg.svd(centred, full_matrices=False)
        return singular**2 / (count - 1), transposed.T
    covariance = np.zeros((width, width))
    for start in range(0, count, _BLOCK):
        centred = values[rows[start : start + _BLOCK]].astype(np.float64) - mean
        covariance += centred.T @ centred
    eigenvalues, vectors = np.linalg.eigh(covariance / (count - 1))
    return np.maximum(eigenvalues[::-1], 0.0), vectors[:, ::-1]
