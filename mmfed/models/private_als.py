"""Private alternating least squares: user factors stay with the user, items are fitted to noised sums of statistics.

Chien, Jain, Krichene, Rendle, Song, Thakurta, Zhang, "Private Alternating Least Squares: Practical Private Matrix
Completion with Tighter Rates" (ICML 2021), for implicit feedback (Hu, Koren, Volinsky 2008). A comparison: it exists in
simulations, no device runs it. In a round every user solves for a factor u from the own history and the public item
factors v, brings it to norm 1, and adds, for at most k of the own items j, uuᵀ to A_j and u to b_j, and uuᵀ to the Gram
matrix G of all users. Then v_j = (A_j + w G + ridge)⁻¹ b_j, from the noised A_j and G projected to positive
semidefinite matrices.

Exact sensitivity. Written as one vector (symmetric matrices as diagonal and √2 times the upper triangle, so that its
norm is Frobenius'), a user with norm ‖u‖ = a ≤ 1 and c ≤ k items adds a vector of squared norm

    Σ_j (‖uuᵀ‖² + ‖u‖²) + ‖uuᵀ‖² = c (a⁴ + a²) + a⁴ ≤ 2k + 1,

reached with a = 1 and c = k: adding or removing one user moves the sum by at most √(2k + 1), and by that much for some.
``statistics`` enforces both bounds. The item factors of a round are public in the next; T rounds of one σ are one
Gaussian of σ/√T (zero-concentrated DP: T / 2σ²).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import sparse

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.mechanisms import GaussianMechanism, NoiseSource, clip
from mmfed.privacy.units import check_count
from mmfed.types import FloatArray

Choice = Literal["rarest", "latest"]


@dataclass(frozen=True, kw_only=True)
class AlsSettings:
    """What a run of alternating least squares is, but for its noise.

    Args:
        rank: dimensions of a factor.
        rounds: sums that are released.
        items_per_user: k, own items that a user weights at most in a round.
        items: the most popular items that get factors, by the noised counts.
        unseen: w, weight of the items a user has not had.
        ridge: regularisation of item factors, in users.
        user_ridge: of user factors, in events.
        history_decay: weight of an own event per later one, in a user's factor.
        choice: which own items a user weights: those with the smallest noised counts (as in the paper), or the latest.
    """

    rank: int = 16
    rounds: int = 2
    items_per_user: int = 20
    items: int = 700
    unseen: float = 0.05
    ridge: float = 5.0
    user_ridge: float = 1.0
    history_decay: float = 0.8
    choice: Choice = "rarest"


def sensitivity(items_per_user: int) -> float:
    """√(2k + 1): how far one user, added or removed, can move ``statistics``, and some do."""
    return math.sqrt(2 * check_count("items_per_user", items_per_user) + 1)


def statistics(factors: FloatArray, chosen: sparse.csr_array, *, items_per_user: int) -> FloatArray:
    """Σ_u over the users, as one vector: A_j packed, item by item; then b_j; then G packed.

    Args:
        factors: [users, rank]; longer ones are clipped to norm 1, one that is not finite counts as zero.
        chosen: [users, items] 1 where a user weights an item.
        items_per_user: k.

    Raises:
        MmfedError: a user weights more than k items, or one by anything but 1.
    """
    counts = np.diff(chosen.indptr)
    if len(counts) and (int(counts.max()) > items_per_user or bool((chosen.data != 1).any())):
        raise MmfedError(
            ExitCode.PRIVACY, f"a user weights more than {items_per_user} items, or one not by 1.", "report this."
        )
    bounded = clip(factors, 1.0)
    outer = packed_outer(bounded)
    return np.concatenate([(chosen.T @ outer).ravel(), (chosen.T @ bounded).ravel(), outer.sum(axis=0)])


def packed_outer(factors: FloatArray) -> FloatArray:
    """[users, rank (rank + 1) / 2] uuᵀ of each user: diagonal, and √2 times the upper triangle."""
    rows, columns = np.triu_indices(factors.shape[1])
    return factors[:, rows] * factors[:, columns] * np.where(rows == columns, 1.0, math.sqrt(2.0))


def unpacked(sums: FloatArray, *, items: int, rank: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """A [items, rank, rank], b [items, rank] and G [rank, rank] of a vector of ``statistics``."""
    size = rank * (rank + 1) // 2
    rows, columns = np.triu_indices(rank)
    packed = np.concatenate([sums[: items * size].reshape(items, size), sums[None, -size:]])
    matrices = np.zeros((items + 1, rank, rank))
    matrices[:, rows, columns] = packed / np.where(rows == columns, 1.0, math.sqrt(2.0))
    matrices[:, columns, rows] = matrices[:, rows, columns]
    return matrices[:items], sums[items * size : -size].reshape(items, rank), matrices[items]


def positive(matrices: FloatArray) -> FloatArray:
    """[..., rank, rank] the nearest positive semidefinite matrix to each (negative eigenvalues set to zero)."""
    strengths, directions = np.linalg.eigh(matrices)
    return (directions * np.maximum(strengths, 0.0)[..., None, :]) @ np.swapaxes(directions, -1, -2)


def item_factors(sums: FloatArray, settings: AlsSettings, *, items: int) -> FloatArray:
    """[items, rank] from (noised) statistics; post-processing."""
    found, targets, gram = unpacked(sums, items=items, rank=settings.rank)
    systems = positive(found) + settings.unseen * positive(gram) + settings.ridge * np.eye(settings.rank)
    return np.linalg.solve(systems, targets[..., None])[..., 0]


def user_factors(weights: sparse.csr_array, factors: FloatArray, settings: AlsSettings) -> FloatArray:
    """[users, rank] each user's own solution, brought to norm 1 (0 without events): the scale of v is free.

    Args:
        weights: [users, items] of the own events, by age.
        factors: [items, rank] public.
    """
    rank = factors.shape[1]
    scale = np.linalg.norm(factors) / math.sqrt(len(factors)) or 1.0
    shared = factors / scale
    outer = (shared[:, :, None] * shared[:, None, :]).reshape(len(shared), -1)
    systems = (weights @ outer).reshape(-1, rank, rank) + settings.user_ridge * np.eye(rank)
    systems += settings.unseen * (shared.T @ shared)
    found = np.linalg.solve(systems, (weights @ shared)[..., None])[..., 0]
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    return found / np.where(norms > 0, norms, 1.0)


def chosen_items(weights: sparse.csr_array, counts: FloatArray, settings: AlsSettings) -> sparse.csr_array:
    """[users, items] 1 at no more than k own items of each user.

    Args:
        weights: [users, items] of the own events, larger for later ones.
        counts: [items] noised counts, public.
    """
    rows, columns = [], []
    for user in range(len(weights.indptr) - 1):
        own = weights.indices[weights.indptr[user] : weights.indptr[user + 1]]
        recency = np.asarray(weights.data[weights.indptr[user] : weights.indptr[user + 1]], dtype=np.float64)
        order = np.argsort(counts[own] if settings.choice == "rarest" else -recency, kind="stable")
        kept = own[order[: settings.items_per_user]]
        rows.append(np.full(len(kept), user))
        columns.append(kept)
    places = np.concatenate(rows), np.concatenate(columns)
    return sparse.csr_array((np.ones(len(places[0])), places), shape=weights.shape)


def fit_items(
    weights: sparse.csr_array,
    counts: FloatArray,
    start: FloatArray,
    settings: AlsSettings,
    *,
    noise_multiplier: float,
    noise: NoiseSource,
) -> FloatArray:
    """[items, rank] after all rounds, each released with noise σ √(2k + 1) on every coordinate.

    Unit: one user; adjacency: add/remove one user; trust: whoever runs this adds the noise.

    Args:
        weights: [users, items] of the events; what never changes hands in a federation.
        counts: [items] public.
        start: [items, rank] public: random, or of the content.
        noise_multiplier: σ relative to the sensitivity; 0: no privacy.
    """
    factors, chosen = start, chosen_items(weights, counts, settings)
    for number in range(1, settings.rounds + 1):
        users = user_factors(weights, factors, settings)
        sums = statistics(users, chosen, items_per_user=settings.items_per_user)
        if noise_multiplier > 0:
            mechanism = GaussianMechanism(
                clip_norm=sensitivity(settings.items_per_user), noise_multiplier=noise_multiplier, noise=noise
            )
            sums = mechanism.release(
                sums,
                planned_cohort=1,
                round_number=number,
                contributors=len(users),
                purpose="alternating least squares",
            )
        factors = item_factors(sums, settings, items=len(factors))
    return factors
