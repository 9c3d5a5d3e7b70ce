"""The one-shot release of devices that trust nobody: each adds the whole noise to its own vectors before they leave.

Exact sensitivity. A device's vector (popularity 1/√T, or the packed co-occurrence) has no negative entry and norm 1, or
is zero. For two such vectors x, y: ‖x − y‖² = ‖x‖² + ‖y‖² − 2⟨x, y⟩ ≤ 2, as ⟨x, y⟩ ≥ 0; people without a common item
reach it. Replace-one therefore moves a vector by **√2**, not by the 2 of a clipped update. ``LocalOneShot`` enforces
both properties on whatever it is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.accounting import GaussianRelease
from mmfed.privacy.local import SENSITIVITY, LocalMechanism, analytic_gaussian
from mmfed.privacy.mechanisms import NoiseSource
from mmfed.privacy.one_shot import default_share
from mmfed.privacy.units import check_count, check_population, check_positive, check_rate, default_delta
from mmfed.types import FloatArray

ONE_SHOT_SENSITIVITY = math.sqrt(2.0)  # replace-one, of vectors without negative entries and of norm at most 1


@dataclass(frozen=True, kw_only=True)
class LocalOneShotPlan:
    """What noise every device adds to its own vectors.

    Unit: one user, everything the user ever did; adjacency: replace-one (any other data, or none); trust: nobody. No
    amplification is claimed.

    Args:
        popularity_noise: σ on every coordinate of a device's popularity vector of norm 1.
        cooccurrence_noise: the same on its packed co-occurrence; None: none is asked for.
    """

    popularity_noise: float
    cooccurrence_noise: float | None

    def noise_multipliers(self) -> dict[str, float]:
        """σ of each of a device's vectors, by name."""
        noises = {"popularity": self.popularity_noise, "cooccurrence": self.cooccurrence_noise}
        return {name: noise for name, noise in noises.items() if noise is not None}

    def releases(self) -> dict[str, GaussianRelease]:
        """By name, what a device's accountant sees."""
        return {
            name: GaussianRelease(noise_multiplier=noise / ONE_SHOT_SENSITIVITY, sampling="full", sampling_rate=1.0)
            for name, noise in self.noise_multipliers().items()
        }


def plan_one_shot_local(
    *, population: int, epsilon: float, delta: float | None = None, popularity_share: float | None = None
) -> LocalOneShotPlan:
    """The noise that makes both vectors of one device together (ε, δ)-DP, exactly (Balle and Wang 2018).

    Args:
        population: enrolled users, N: δ and the default share depend on it.
        popularity_share: as in ``plan_one_shot``.

    Raises:
        MmfedError: a parameter is out of range.
    """
    check_population(population)
    chosen = default_delta(population) if delta is None else delta
    sigma = ONE_SHOT_SENSITIVITY * analytic_gaussian(epsilon=epsilon, delta=chosen)
    summed = sigma * math.sqrt(population)  # the noise of all devices is in the sum
    share = default_share(population, summed) if popularity_share is None else popularity_share
    check_rate("popularity_share", share)
    return LocalOneShotPlan(
        popularity_noise=sigma / math.sqrt(share),
        cooccurrence_noise=sigma / math.sqrt(1.0 - share) if share < 1.0 else None,
    )


def local_noise_beside(*, epsilon: float, delta: float, releases: int, early: LocalOneShotPlan) -> float:
    """Gaussian σ, relative to the clip norm, of ``releases`` updates that share a device's ε with its one-shot release.

    Gaussian releases compose exactly: the squared ratios of sensitivity to noise add up.

    Raises:
        MmfedError: the one-shot release leaves nothing.
    """
    check_count("releases", releases)
    whole = analytic_gaussian(epsilon=epsilon, delta=delta) ** -2
    left = whole - sum(one.noise_multiplier**-2 for one in early.releases().values())
    if left <= whole * 1e-9:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"the one-shot release leaves nothing of epsilon {epsilon:g} for {releases} updates.",
            "lower one_shot.epsilon_share, or set federation.rounds = 0.",
        )
    return SENSITIVITY * math.sqrt(releases / left)


class LocalOneShot:
    """One device's vector in, noised out; that it is at most √2 from any other is enforced here.

    Args:
        noise_multiplier: σ relative to norm 1 (not to the sensitivity √2).
        noise: the device's own.
    """

    def __init__(self, *, noise_multiplier: float, noise: NoiseSource) -> None:
        check_positive("noise_multiplier", noise_multiplier)
        self._mechanism = LocalMechanism(
            clip_norm=1.0, noise_multiplier=noise_multiplier, law="gaussian", noise=noise
        )  # fmt: skip

    def bounded(self, vector: FloatArray) -> FloatArray:
        """[coordinates] no entry below 0, norm at most 1; one that holds NaN or infinity counts as zero."""
        return self._mechanism.clipped(np.maximum(np.asarray(vector, dtype=np.float64), 0.0))

    def release(self, vector: FloatArray, *, round_number: int, purpose: str) -> FloatArray:
        """[coordinates] bounded and noised."""
        return self._mechanism.release(self.bounded(vector), round_number=round_number, purpose=purpose)
