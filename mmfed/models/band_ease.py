"""Band-EASE: an EASE model from the one-shot co-occurrence, and what else may be made of it (post-processing)."""

from __future__ import annotations

import numpy as np
from scipy import linalg, sparse

from mmfed.data.schema import Interactions
from mmfed.errors import ExitCode, MmfedError
from mmfed.models.baselines.base import history_matrix
from mmfed.models.item_graph import ItemGraph
from mmfed.types import FloatArray, IntArray


def ease_weights(gram: FloatArray, ridge: float) -> FloatArray:
    """B = −P / diag(P) column-wise with a zero diagonal, P = (G + ridge · I)⁻¹ (Steck 2019).

    Args:
        gram: [items, items] symmetric positive semi-definite; overwritten.
        ridge: added to the diagonal, in the unit of the Gram matrix.

    Raises:
        MmfedError: the sum is not positive definite (it was noised).
    """
    gram[np.diag_indices_from(gram)] += ridge
    # Cholesky: the matrix is symmetric positive definite, half the work of a general inverse.
    try:
        factor = linalg.cho_factor(gram, overwrite_a=True)
    except linalg.LinAlgError:
        raise MmfedError(
            ExitCode.CONFIG,
            f"the item co-occurrence with a ridge of {ridge:g} is not positive definite: no EASE weights.",
            "raise one_shot.ridge.",
        ) from None
    precision = linalg.cho_solve(factor, np.eye(len(gram)), overwrite_b=True)
    weights = precision / -np.diag(precision)
    np.fill_diagonal(weights, 0.0)
    return weights


class BandEase:
    """Scores = recency-weighted history · B, on the device.

    Args:
        cooccurrence: [items, items] sum over users (``training.cooccurrence``), perhaps noised and denoised.
        ridge: λ, in users.
        history_decay: weight of the history per event of age.

    Attributes:
        weights: [items, items] B.
        popularity: [items] log(1 + the diagonal of the sum), whose entries grow with an item's users.
    """

    def __init__(self, cooccurrence: FloatArray, *, ridge: float, history_decay: float) -> None:
        self.popularity = np.log1p(np.maximum(np.diag(cooccurrence), 0.0))
        self.weights = ease_weights(cooccurrence.copy(), ridge)
        self.history_decay = history_decay

    def score(self, history: Interactions, users: IntArray) -> FloatArray:
        """[users, items] scores."""
        return self.of_recent(history_matrix(history, users, decay=self.history_decay))

    def of_recent(self, recent: sparse.csr_array) -> FloatArray:
        """[rows, items] scores after histories given as rows [rows, items] of recency weights."""
        return recent @ self.weights

    def starts(self) -> FloatArray:
        """[items] how likely a made-up history begins with each item; all 0 where the sum tells of none."""
        known = np.abs(self.weights).sum(1) > 0
        return known / max(int(known.sum()), 1)

    def graph(self, neighbours: int) -> ItemGraph:
        """The learned item–item graph: every item's strongest positive weights, symmetrically normalised."""
        positive = np.maximum(self.weights, self.weights.T)
        neighbours = min(neighbours, len(positive) - 1)
        chosen = (
            np.argpartition(-positive, neighbours - 1, axis=1)[:, :neighbours]
            if neighbours > 0
            else np.zeros((len(positive), 0), dtype=np.int64)
        )
        linked = np.take_along_axis(positive, chosen, axis=1) > 0
        degree = np.maximum(linked.sum(1), 1)
        weights = np.where(linked, 1 / np.sqrt(degree[:, None] * degree[chosen]), 0.0)
        return ItemGraph(chosen.astype(np.int64), weights.astype(np.float32))


def standardised(scores: FloatArray) -> FloatArray:
    """Every row with mean 0 and deviation 1 over the catalogue; a constant row becomes 0."""
    centred = scores - scores.mean(1, keepdims=True)
    deviation = centred.std(1, keepdims=True)
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
