"""The privacy loss of Poisson-sampled Gaussian releases, composed on a grid; part of the auditor's own account.

Discretised by connecting the dots (Doroshenko, Ghazi, Kamath, Kumar, Manurangsi 2022), composed by an FFT under
exponential tilting. Tilting moves the mass to the part of the loss distribution that decides δ, so that rounding of the
FFT is relative to δ, not to 1: small δ are exact too.

Every approximation errs upwards: losses are spread to both ends of a grid cell with both probabilities kept (the
hockey-stick curve is convex in e^ε), tails are moved to higher losses, wrapped mass is only added, what lies above the
window is bounded by Chernoff, and an allowance for rounding is added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy import fft
from scipy import special

_COARSE_BINS = 4096
_TILTS = np.geomspace(1e-4, 1e5, 120)
_EPS = float(np.finfo(float).eps)


@dataclass(frozen=True)
class Term:
    """``count`` Gaussian releases with noise multiplier ``sigma``, Poisson rate ``rate`` (1: everyone takes part).

    ``pure``: instead, releases of which only (1 / ``sigma``, 0)-DP is used (Laplace noise).
    With ``l2_squared`` and ``l1`` the noise is Skellam and ``sigma`` relative to the square root of ``l2_squared``.
    """

    sigma: float
    rate: float
    count: int
    pure: bool = False
    l2_squared: int = 0
    l1: int = 0


@dataclass(frozen=True)
class _Losses:
    """Masses of a discretised loss on grid points (start + i) · h; ``infinite`` is the mass at infinity."""

    masses: np.ndarray
    start: int
    infinite: float
    count: int

    def points(self, h: float) -> np.ndarray:
        return (self.start + np.arange(self.masses.size)) * h


def sampled_epsilon(sampled: list[Term], mu: float, delta: float, *, grid: float, remove: bool) -> float:
    """ε at ``delta`` of Poisson-sampled terms beside a μ-GDP Gaussian, one direction; nats. An upper bound.

    Args:
        grid: finest grid to use, nats.
        remove: the unit is removed; else added.
    """
    total = sum(term.count for term in sampled) + 1
    # the grid adds about total · h² / 4 to the variance of the loss: keep that near 1e-5 of it
    bins = 1 << min(21, max(18, 18 + math.floor(math.log2(total / 1000) / 2)))
    reach = -float(special.ndtri(delta * 1e-5 / total))  # standard deviations beyond which mass does not matter
    widths = [_loss_width(term, reach) for term in sampled] + ([2 * reach * mu] if mu > 0 else [])

    def discretise(h: float) -> list[_Losses]:
        losses = [_sampled_losses(term, reach, h, remove=remove) for term in sampled]
        return losses + ([_gaussian_losses(mu, reach, h)] if mu > 0 else [])

    coarse_h = max(max(widths) / _COARSE_BINS, grid)
    coarse = discretise(coarse_h)
    cumulants = np.array([_cumulant(coarse, coarse_h, tilt) for tilt in _TILTS])
    negligible = math.log(delta * 1e-9)
    tops = (cumulants - negligible) / _TILTS  # Chernoff: no more than 1e-9 δ lies above any of these
    top, outer = float(tops.min()), float(_TILTS[int(tops.argmin())])
    best = guess = float(((cumulants - math.log(delta)) / _TILTS).min())
    for _ in range(5):  # each pass tilts to the ε found so far; every pass gives an upper bound
        middle = int(np.argmin(cumulants - _TILTS * guess))
        tilt = float(_TILTS[middle])
        steps = np.geomspace(1e-3, 1e3, 40) * tilt
        lower = np.array([_cumulant(coarse, coarse_h, tilt - step) for step in steps])
        bottom = float(((math.log(1e-15) - lower + cumulants[middle]) / steps).max())
        bottom = min(bottom, guess - 0.05 * (top - guess))
        higher = np.array([_cumulant(coarse, coarse_h, tilt + step) for step in steps])
        end = max(top, float(((math.log(1e15) + higher - cumulants[middle]) / steps).min()))
        h = max((end - bottom) / (bins - 2), max(widths) / (2 * bins), grid)
        value = max(0.0, _solve(discretise(h), h, bins, tilt, outer, bottom, guess, delta))
        best, last = min(best, value), best
        if last - best < 1e-3 * last or best == 0.0:
            break
        guess = best
    return best


def _solve(
    losses: list[_Losses],
    h: float,
    bins: int,
    tilt: float,
    outer: float,
    bottom: float,
    guess: float,
    delta: float,
) -> float:
    """ε at δ by one tilted FFT over the window that starts at ``bottom``; ``outer`` bounds what lies above it."""
    first = math.floor(bottom / h)
    spectrum = np.ones(bins // 2 + 1, dtype=complex)
    total, log_mass, sure = 0, 0.0, 0.0
    for part in losses:
        exponents = tilt * part.points(h)
        shift = float(exponents.max())
        tilted = part.masses * np.exp(exponents - shift)
        normaliser = float(tilted.sum())
        folded = np.bincount((part.start + np.arange(tilted.size)) % bins, tilted / normaliser, bins)
        spectrum *= np.asarray(fft.rfft(folded)) ** part.count
        log_mass += part.count * (shift + math.log(normaliser))
        sure += part.count * math.log1p(-part.infinite)
        total += part.count
    tilted = np.roll(np.asarray(fft.irfft(spectrum, bins)), -(first % bins))
    points = (first + np.arange(bins)) * h
    weights = np.exp(np.minimum(log_mass - tilt * points, 150.0))
    masses = np.maximum(tilted, 0.0) * weights
    end = float(points[-1])
    above = min(_cumulant(losses, h, s) - s * end for s in outer * np.array([0.7, 0.85, 1.0, 1.2, 1.4]))
    constant = -math.expm1(sure) + math.exp(min(above, 0.0))
    if constant >= delta:
        return math.inf
    upper = np.cumsum(masses[::-1])[::-1]
    lower = np.cumsum((masses * np.exp(np.minimum(guess - points, 300.0)))[::-1])[::-1]
    # rounding of the transforms: their error is small in L2; Cauchy-Schwarz turns that into a bound on the sum
    rounding = _EPS * (total + math.log2(bins)) * float(np.linalg.norm(tilted))
    slack = constant + rounding * np.sqrt(np.cumsum(np.square(weights)[::-1])[::-1])
    # δ at each grid point counts the masses strictly above it; between two points it is linear in e^ε
    at_points = slack[1:] + upper[1:] - np.exp(np.minimum(points[:-1] - guess, 300.0)) * lower[1:]
    enough = np.flatnonzero(at_points <= delta)
    if enough.size == 0:
        return end
    k = int(enough[0])
    if k == 0:
        return float(points[0])
    rest = float(slack[k] + upper[k]) - delta
    return min(float(points[k]), guess + math.log(rest / float(lower[k]))) if rest > 0 else float(points[k - 1])


def _cumulant(losses: list[_Losses], h: float, tilt: float) -> float:
    """log E[e^(tilt · loss); loss finite] of the whole composition."""
    total = 0.0
    for part in losses:
        exponents = tilt * part.points(h)
        shift = float(exponents.max())
        total += part.count * (shift + math.log(float(part.masses @ np.exp(exponents - shift)) + 1e-300))
    return total


def _loss_width(term: Term, reach: float) -> float:
    top = _loss(term, 1 + reach * term.sigma)
    return top - math.log1p(-term.rate)


def _loss(term: Term, x: float) -> float:
    exponent = (2 * x - 1) / (2 * term.sigma**2)
    return float(np.logaddexp(math.log1p(-term.rate), math.log(term.rate) + exponent))


def _sampled_losses(term: Term, reach: float, h: float, *, remove: bool) -> _Losses:
    """P = (1 - q) N(0, σ²) + q N(1, σ²) against Q = N(0, σ²) when a unit is removed; the other way round when added."""
    sigma, rate = term.sigma, term.rate
    first = math.floor(math.log1p(-rate) / h)
    last = max(first + 2, math.ceil(_loss(term, 1 + reach * sigma) / h))
    edges = np.arange(first, last + 1) * h
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inside = np.where(edges > 1, edges + np.log1p(-(1 - rate) * np.exp(-edges)), np.log(np.expm1(edges) + rate))
    x = np.where(edges > math.log1p(-rate), sigma**2 * (inside - math.log(rate)) + 0.5, -np.inf)
    plain, plain_tail = _cells(x / sigma)
    shifted, shifted_tail = _cells((x - 1) / sigma)
    mixed = (1 - rate) * plain + rate * shifted
    if remove:
        infinite = (1 - rate) * plain_tail + rate * shifted_tail
        return _Losses(_connect_dots(mixed, plain, edges[:-1], h), first, infinite, term.count)
    masses = _connect_dots(plain[::-1], mixed[::-1], -edges[1:][::-1], h)
    masses[0] += plain_tail
    return _Losses(masses, -last, 0.0, term.count)


def _gaussian_losses(mu: float, reach: float, h: float) -> _Losses:
    """The loss of a μ-GDP Gaussian: N(μ²/2, μ²) under P, N(-μ²/2, μ²) under Q."""
    first = math.floor((mu**2 / 2 - reach * mu) / h)
    last = math.ceil((mu**2 / 2 + reach * mu) / h)
    edges = np.arange(first, last + 1) * h
    over, tail = _cells((edges - mu**2 / 2) / mu)
    under, _ = _cells((edges + mu**2 / 2) / mu)
    masses = _connect_dots(over, under, edges[:-1], h)
    masses[0] += float(special.ndtr((edges[0] - mu**2 / 2) / mu))
    return _Losses(masses, first, tail, 1)


def _cells(z: np.ndarray) -> tuple[np.ndarray, float]:
    """Standard normal mass between consecutive ascending edges, to full relative precision, and above the last edge."""
    below, above = special.ndtr(z), special.ndtr(-z)
    return np.where(z[:-1] > 0, above[:-1] - above[1:], below[1:] - below[:-1]), float(above[-1])


def _connect_dots(p: np.ndarray, q: np.ndarray, lower_edges: np.ndarray, h: float) -> np.ndarray:
    """Cell masses moved to the cells' ends so that the mass under P and under Q stays the same; shape [cells + 1]."""
    with np.errstate(divide="ignore", over="ignore"):
        q_scaled = np.exp(np.log(q) + lower_edges)
    upper = np.clip((p - q_scaled) / -math.expm1(-h), 0.0, p)
    masses = np.zeros(p.size + 1)
    masses[:-1] += p - upper
    masses[1:] += upper
    return masses
