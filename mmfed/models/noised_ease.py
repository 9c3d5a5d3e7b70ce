"""A recommender from the one-shot release under noise: band-EASE of what denoising keeps, popularity, and content.

Score = band-EASE + POPULARITY · log popularity + CONTENT · likeness of an item to the recent history, each part
standardised over the catalogue. Content and history meet on the device; no budget is spent on them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from scipy import linalg, sparse

from mmfed.models.band_ease import BandEase, ease_weights, standardised
from mmfed.models.cold_bias import predicted_from_content
from mmfed.models.denoise import denoised_cooccurrence, expected_diagonal, kept_entries
from mmfed.types import BoolArray, FloatArray, IntArray

POPULARITY, CONTENT = 0.3, 0.6  # beside band-EASE
POPULARITY_ALONE, CONTENT_ALONE = 0.8, 0.8  # where no co-occurrence was released
CONTENT_DECAY = 0.8  # weight of an event per later event


@dataclass(frozen=True, eq=False)
class NoisedPairs:
    """A noised co-occurrence.

    Attributes:
        matrix: [m, m] symmetric.
        items: [m] the items it covers, ascending.
        noise: deviation on the diagonal; 1/√2 of it elsewhere.
    """

    matrix: FloatArray
    items: IntArray
    noise: float


class NoisedEase(BandEase):
    """Band-EASE, popularity and content in one score; the interface of ``BandEase``.

    Args:
        weights: [items, items] B with zero diagonal; None: no co-occurrence was released.
        popularity: [items] positive, denoised.
        kernel: [items, items] ``content_kernel``.
        history_decay: weight of the history per event of age.
    """

    def __init__(
        self, weights: FloatArray | None, *, popularity: FloatArray, kernel: FloatArray, history_decay: float
    ) -> None:
        items = len(popularity)
        self.paired = weights is not None
        self.weights = np.zeros((items, items)) if weights is None else weights
        self._set_popularity(popularity)
        self.history_decay = history_decay
        self._kernel = kernel
        self._power = np.log(CONTENT_DECAY) / np.log(history_decay) if history_decay < 1 else 1.0

    def of_recent(self, recent: sparse.csr_array) -> FloatArray:
        alike = standardised(recent.power(self._power) @ self._kernel)
        if not self.paired:
            return POPULARITY_ALONE * self._popular + CONTENT_ALONE * alike
        return standardised(recent @ self.weights) + POPULARITY * self._popular + CONTENT * alike

    def without_counts_of(self, cold: BoolArray, content: FloatArray) -> NoisedEase:
        """The same with the popularity of items that came after the release told from the content of the others.

        Args:
            cold: [items] bool.
            content: [items, d] public.
        """
        told = np.exp(predicted_from_content(self.popularity, content, cold))
        found = copy.copy(self)
        found._set_popularity(np.where(cold, told, np.exp(self.popularity)))
        return found

    def _set_popularity(self, popularity: FloatArray) -> None:
        self.popularity = np.log(popularity)
        self._popular = standardised(self.popularity[None, :])

    def starts(self) -> FloatArray:
        shares = np.exp(self.popularity)
        return shares / shares.sum()


def noised_ease(
    *,
    counts: FloatArray,
    pairs: NoisedPairs | None,
    content: FloatArray,
    kernel: FloatArray,
    ridge: float,
    history_decay: float,
    denoising: str = "spectrum",
) -> NoisedEase:
    """From the release to a recommender; everything here is post-processing.

    Args:
        counts: [items] denoised popularity, positive.
        pairs: None: popularity took the whole budget.
        content: [items, d] public (``denoise.content_columns``).
        kernel: [items, items] public.
        ridge: of EASE, in users; raised until the denoised matrix is positive definite.
        denoising: "spectrum" or "threshold".
    """
    weights = None
    if pairs is not None:
        deviation, own = pairs.noise / np.sqrt(2.0), counts[pairs.items]
        kept = (
            kept_entries(pairs.matrix, deviation)
            if denoising == "threshold"
            else denoised_cooccurrence(pairs.matrix, deviation, own, content[pairs.items])
        )
        np.fill_diagonal(kept, expected_diagonal(np.diag(pairs.matrix), own))
        lowest = float(linalg.eigvalsh(kept, subset_by_index=(0, 0))[0])
        weights = np.zeros((len(counts), len(counts)))
        weights[np.ix_(pairs.items, pairs.items)] = ease_weights(kept, max(ridge, 0.05 - lowest))
    return NoisedEase(weights, popularity=counts, kernel=kernel, history_decay=history_decay)


def most_popular(counts: FloatArray, most: int) -> IntArray:
    """The ``most`` items with the largest counts, ascending by index."""
    return np.sort(np.argsort(-counts, kind="stable")[:most]).astype(np.int64)
