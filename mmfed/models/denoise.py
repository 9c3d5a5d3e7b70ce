"""What is left of a noised one-shot release: post-processing, which costs no privacy.

Popularity is shrunk toward a prior learned from it and the public catalogue (empirical Bayes; Robbins 1956, Efron and
Morris 1973). Of the co-occurrence those directions are kept whose strength noise alone does not reach: the edge of the
spectrum of m × m noise of deviation s is 2 s √m (Wigner), and a direction of strength λ above it came from one of
strength (λ + √(λ² − edge²)) / 2 (Capitaine, Donati-Martin, Féral 2009; shrinkage as in Gavish and Donoho 2017).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mmfed.data.schema import Features
from mmfed.types import FloatArray

FLOOR = 0.2  # popularity never falls below this part of its prior
PRIOR_COLUMNS, PRIOR_RIDGE, PRIOR_STEPS = 32, 1.0, 30
# Public directions of the content, and most popular items: the estimates of all pairs are averaged, so that none of
# these numbers matters much.
SUBSPACES = ((16, 300), (32, 500), (64, 700))
POPULARITY_POWER = 0.75
SMALLEST_DIAGONAL = 0.05  # ‖K_u‖ ≥ √T_u, so the share is at most 1; below this no decay and history bring it
ABOVE_EDGE = 1.02
THRESHOLD = 4.0  # deviations of noise that an entry has to exceed
MODALITY_SCALE = {"attributes": 1.0, "text": 1.0}  # relative length of an item's vector; others below
OTHER_SCALE = 0.5


def content_columns(features: Mapping[str, Features], item_count: int) -> FloatArray:
    """[items, d] all frozen modalities side by side, each brought to one mean length; absent items are zero."""
    parts = [np.zeros((item_count, 0))]
    for name in sorted(features):
        one = features[name]
        values = np.where(one.present[:, None], one.values, 0.0).astype(np.float64)
        length = np.sqrt(np.square(values).sum() / max(int(one.present.sum()), 1))
        if length > 0:
            parts.append(values * (MODALITY_SCALE.get(name, OTHER_SCALE) / length))
    return np.concatenate(parts, axis=1)


def denoised_popularity(noised: FloatArray, deviation: float, content: FloatArray) -> FloatArray:
    """[items] positive: log-linear prior of the content, then every count shrunk toward it by its noise.

    Args:
        noised: [items] counts with Gaussian noise.
        deviation: of that noise.
        content: [items, d] public.
    """
    prior = _prior(noised, deviation, content)
    spread = np.mean(np.square(noised - prior)) - deviation**2  # of the true counts around the prior
    variance = max(0.05, spread / float(np.mean(np.square(prior)))) * np.square(prior)
    shrunk = prior + variance / (variance + deviation**2) * (noised - prior)
    return np.maximum(shrunk, FLOOR * prior)


def _prior(noised: FloatArray, deviation: float, content: FloatArray) -> FloatArray:
    """[items] exp(a + content · b), by reweighted ridge regression on the noised counts."""
    columns = np.column_stack([np.ones(len(noised)), content_directions(content, PRIOR_COLUMNS)])
    penalty = np.diag([1e-6, *[PRIOR_RIDGE] * (columns.shape[1] - 1)])
    mean = max(float(noised.mean()), deviation / np.sqrt(len(noised)), 1e-9)
    weights = np.zeros(columns.shape[1])
    weights[0] = np.log(mean)
    for _ in range(PRIOR_STEPS):
        expected = _bounded(columns @ weights, mean)
        trust = np.square(expected) / (deviation**2 + np.square(expected))
        target = np.log(expected) + (noised - expected) / expected
        system = columns.T @ (trust[:, None] * columns) + penalty
        weights = np.linalg.solve(system, columns.T @ (trust * target))
    return _bounded(columns @ weights, mean)


def _bounded(logs: FloatArray, mean: float) -> FloatArray:
    """Expected counts within a factor of 400 of the mean: a few steps of the fit may leave that range."""
    return np.exp(np.clip(logs, np.log(mean) - 6.0, np.log(mean) + 6.0))


def content_directions(content: FloatArray, most: int) -> FloatArray:
    """[items, ≤ most] the strongest directions of the content, each of mean square 1."""
    if not content.shape[1]:
        return content
    left, strengths, _ = np.linalg.svd(content - content.mean(0), full_matrices=False)
    kept = int((strengths > 1e-9 * max(strengths[0], 1e-300)).sum())
    return left[:, : min(most, kept)] * np.sqrt(len(content))


def kept_spectrum(matrix: FloatArray, deviation: float) -> FloatArray:
    """The positive directions above the edge of the noise, each shrunk to what lies behind it.

    Args:
        matrix: [m, m] symmetric, noise of ``deviation`` off the diagonal.
    """
    edge = 2.0 * deviation * np.sqrt(len(matrix))
    strengths, directions = np.linalg.eigh(matrix)
    above = strengths > ABOVE_EDGE * edge
    seen = strengths[above]
    true = (seen + np.sqrt(np.square(seen) - edge**2)) / 2.0
    true *= 1.0 - np.square(edge / 2.0 / true)
    return (directions[:, above] * true) @ directions[:, above].T


def kept_entries(matrix: FloatArray, deviation: float) -> FloatArray:
    """Entries of more than ``THRESHOLD`` deviations, the rest zero: for short histories, whose pairs are few."""
    return np.where(matrix > THRESHOLD * deviation, matrix, 0.0)


def denoised_cooccurrence(
    noised: FloatArray,
    deviation: float,
    popularity: FloatArray,
    content: FloatArray,
    *,
    subspaces: Sequence[tuple[int, int]] = SUBSPACES,
) -> FloatArray:
    """[items, items] what the spectrum shows above its noise: in a content subspace, then among the most popular.

    Args:
        noised: [items, items] symmetric.
        deviation: of the noise off the diagonal.
        popularity: [items] positive, denoised.
        content: [items, d] public.
        subspaces: (content directions, most popular items) of the estimates that are averaged.
    """
    estimate = np.zeros_like(noised)
    order = np.argsort(-popularity, kind="stable")
    for dimensions, most in subspaces:
        columns = np.column_stack([np.ones(len(noised)), content_directions(content, dimensions)])
        basis = np.linalg.qr(columns * np.power(popularity, POPULARITY_POWER)[:, None])[0]
        found = basis @ kept_spectrum(basis.T @ noised @ basis, deviation) @ basis.T
        top = np.ix_(order[:most], order[:most])
        found[top] += kept_spectrum(noised[top] - found[top], deviation)
        estimate += found / len(subspaces)
    return estimate


def expected_diagonal(noised: FloatArray, popularity: FloatArray) -> FloatArray:
    """[items] the diagonal of the co-occurrence: popularity, scaled to the sum of the noised diagonal.

    A user's diagonal is 1/‖K_u‖ on every item and the popularity 1/√T_u: nearly proportional, and popularity is the
    better known of the two. The sum over all items is known well, by the release itself.

    Args:
        noised: [items] diagonal with its noise.
        popularity: [items] positive, denoised.
    """
    share = float(noised.sum()) / float(popularity.sum())
    return popularity * np.clip(share, SMALLEST_DIAGONAL, 1.0)
