"""Local privacy of a user: the device clips and adds the noise itself, and trusts nobody.

Guarantee of one release: unit, one user; adjacency, replace-one (the user's data against any other data, or none): two
clipped updates differ by up to 2C, so the sensitivity is **2C**. That somebody takes part, and when, is not hidden.

- ``gaussian``: clipped to C in L2, N(0, (σC)²) on every coordinate. Its ε at δ is exact (Balle and Wang 2018, theorem
  8) and k releases compose to one Gaussian of σ / √k.
- ``laplace``: clipped to C in **L1**, Laplace(bC) on every coordinate: (2/b, 0)-DP (Dwork, McSherry, Nissim and Smith
  2006).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy import optimize, special

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.mechanisms import NoiseSource, clip, on_grid
from mmfed.privacy.pure import release_epsilon_for
from mmfed.privacy.units import check_count, check_delta, check_epsilon, check_positive
from mmfed.types import FloatArray

Law = Literal["gaussian", "laplace"]

SENSITIVITY = 2.0  # in clip norms: replace-one


def analytic_gaussian(*, epsilon: float, delta: float) -> float:
    """The smallest σ, relative to the sensitivity, with which one Gaussian release is (ε, δ)-DP (Balle and Wang 2018).

    Raises:
        MmfedError: ε or δ is out of range.
    """
    check_epsilon(epsilon)
    check_delta(delta)

    def excess(log_sigma: float) -> float:
        """log δ(σ) - log δ: Φ(1/2σ - εσ) - e^ε Φ(-1/2σ - εσ), in logarithms throughout."""
        sigma = math.exp(log_sigma)
        upper = float(special.log_ndtr(0.5 / sigma - epsilon * sigma))
        lower = epsilon + float(special.log_ndtr(-0.5 / sigma - epsilon * sigma))
        difference = min(lower - upper, -1e-16)
        return upper + math.log(-math.expm1(difference)) - math.log(delta)

    low, high = -20.0, 2.0
    while excess(high) > 0:
        high += 2.0
    root = float(optimize.brentq(excess, low, high, xtol=1e-13))  # type: ignore[arg-type]
    return math.exp(root) * (1 + 1e-9)


def local_noise_for(*, epsilon: float, delta: float, releases: int, law: Law) -> float:
    """Noise relative to the clip norm (σ, or Laplace's b) so that ``releases`` of one device stay within ε at δ.

    Unit: one user; adjacency: replace-one; nobody is trusted.

    Raises:
        MmfedError: a parameter is out of range.
    """
    check_count("releases", releases)
    if law == "gaussian":
        return SENSITIVITY * math.sqrt(releases) * analytic_gaussian(epsilon=epsilon, delta=delta)
    return SENSITIVITY / release_epsilon_for(epsilon=check_epsilon(epsilon), delta=delta, count=releases)


class LocalMechanism:
    """One device's whole update in, clipped and noised out; the clip is part of the mechanism.

    Args:
        clip_norm: C, in L2 (gaussian) or L1 (laplace).
        noise_multiplier: σ or b relative to C (not to the sensitivity 2C).
        law: of the noise.
        noise: where it comes from; the device's own.
    """

    def __init__(self, *, clip_norm: float, noise_multiplier: float, law: Law, noise: NoiseSource) -> None:
        if law not in ("gaussian", "laplace"):
            raise MmfedError(ExitCode.PRIVACY, f"local_noise = {law!r}: unknown.", "use 'gaussian' or 'laplace'.")
        self.clip_norm = check_positive("clip_norm", clip_norm)
        self.noise_multiplier = check_positive("noise_multiplier", noise_multiplier)
        self.law = law
        self.noise = noise

    def clipped(self, update: FloatArray) -> FloatArray:
        """The update with a norm of at most C; one that holds NaN or infinity counts as zero. Shape [coordinates]."""
        values = np.asarray(update, dtype=np.float64)
        return clip(values[None], self.clip_norm)[0] if self.law == "gaussian" else _clip_l1(values, self.clip_norm)

    def release(self, update: FloatArray, *, round_number: int, purpose: str = "local model") -> FloatArray:
        """Clipped and noised, float64, rounded to a grid of 2^-16 noise scales (see ``mechanisms``). [coordinates]."""
        clipped = self.clipped(update)
        scale = self.noise_multiplier * self.clip_norm
        normal = self.noise.standard_normal
        if self.law == "gaussian":
            samples = normal(clipped.size, round_number=round_number, purpose=purpose)
        else:
            samples = laplace(normal(4 * clipped.size, round_number=round_number, purpose=purpose))
        return on_grid(clipped + scale * samples, scale)


def laplace(normals: FloatArray) -> FloatArray:
    """Standard Laplace samples from four times as many standard normal ones: half a sum of two squares is Exp(1)."""
    squares = np.square(normals).reshape(4, -1)
    return (squares[0] + squares[1] - squares[2] - squares[3]) / 2.0


def _clip_l1(values: FloatArray, bound: float) -> FloatArray:
    if not np.isfinite(values).all():
        return np.zeros_like(values)
    largest = float(np.abs(values).max(initial=0.0))
    scale = largest if largest > 0 else 1.0
    scaled = values / scale
    inner = float(np.abs(scaled).sum())
    with np.errstate(over="ignore"):
        over = inner * scale > bound
    return scaled * (bound / inner) if over else values
