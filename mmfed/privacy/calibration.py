"""From a target ε to the noise multiplier or the number of rounds: data-independent, so it costs nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.accounting import GaussianRelease, Sampling
from mmfed.privacy.accounting import epsilon as account
from mmfed.privacy.units import check_count, check_delta, check_positive

_COARSE = 1e-3
_LARGEST_SIGMA = 1e6
_MARGIN = 1e-6  # the running account may differ from the one-off account by less than this (relative)


def noise_multiplier_for(
    *,
    epsilon: float,
    delta: float,
    sampling: Sampling,
    sampling_rate: float,
    rounds: int,
    tolerance: float = 1e-3,
    beside: Sequence[GaussianRelease] = (),
) -> float:
    """A noise multiplier σ whose ε over ``rounds`` releases lies in [(1 - tolerance) · epsilon, epsilon].

    Args:
        beside: releases of other noise that the same ε has to cover.

    Raises:
        MmfedError: a parameter is out of range, or no σ up to 1e6 is enough.
    """
    check_positive("epsilon", epsilon)
    check_delta(delta)
    check_count("rounds", rounds)
    check_positive("tolerance", tolerance)
    one = GaussianRelease(noise_multiplier=1.0, sampling=sampling, sampling_rate=sampling_rate, count=rounds)

    def spent(sigma: float, grid: float | None) -> float:
        return _spent(replace(one, noise_multiplier=sigma), delta, grid, *beside)

    aim = epsilon * (1.0 - tolerance / 2.0)
    coarse_aim, best = aim, 0.0
    for _ in range(8):  # the coarse grid finds σ, the fine grid says by how much to move the coarse aim
        sigma = _smallest(lambda s: spent(s, _COARSE), coarse_aim, delta)
        exact = spent(sigma, None)
        if exact <= epsilon * (1.0 - _MARGIN):
            best = sigma
            if exact >= epsilon * (1.0 - tolerance):
                return sigma
        coarse_aim *= aim / max(exact, 1e-12)
    if best > 0.0 and tolerance > 1e-6:
        return _tighten(lambda s: spent(s, None), best, epsilon, tolerance)
    return _smallest(lambda s: spent(s, None), epsilon * (1.0 - _MARGIN), delta)


def rounds_for(
    *,
    epsilon: float,
    delta: float,
    sampling: Sampling,
    sampling_rate: float,
    noise_multiplier: float,
    most: int = 1_000_000,
) -> int:
    """The most releases whose ε stays within ``epsilon``; 0 when one is already too much; at most ``most``."""
    check_positive("epsilon", epsilon)
    check_delta(delta)
    one = GaussianRelease(noise_multiplier=noise_multiplier, sampling=sampling, sampling_rate=sampling_rate)

    def fits(count: int) -> bool:
        return _spent(replace(one, count=count), delta, None) <= epsilon * (1.0 - _MARGIN)

    if not fits(1):
        return 0
    low, high = 1, 2
    while high <= most and fits(high):
        low, high = high, high * 2
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _smallest(spent: Callable[[float], float], aim: float, delta: float) -> float:
    """The smallest σ, to 1e-5 relative, with spent(σ) ≤ aim; spent falls with σ.

    Found by bisection, so that it depends on nothing but where spent crosses the aim; interpolation narrows that place
    down first, for every ε takes a loss distribution.
    """
    crossing = _Crossing(spent, aim)
    low, high = 0.0, 1.0
    while crossing.lies_above(high):
        low, high = high, high * 2.0
        if high > _LARGEST_SIGMA:
            raise MmfedError(
                ExitCode.PRIVACY,
                f"epsilon = {aim:.6g}: no noise multiplier up to {_LARGEST_SIGMA:g} is enough at delta = {delta:.3g}.",
                "ask for a larger epsilon or delta, or fewer rounds.",
            )
    while low == 0.0 and high > 1e-3:
        if crossing.lies_above(high / 2.0):
            low = high / 2.0
        else:
            high /= 2.0
    crossing.narrow()
    while high - low > 1e-5 * high:
        middle = math.sqrt(low * high) if low > 0 else high / 2.0
        low, high = (middle, high) if crossing.lies_above(middle) else (low, middle)
        if high < 1e-3:
            break
    return high


class _Crossing:
    """Where a falling ε(σ) comes down to the aim: between ``below`` and ``above``, as far as is known."""

    def __init__(self, spent: Callable[[float], float], aim: float) -> None:
        self._spent = spent
        self._aim = aim
        self.below, self._excess = 0.0, math.inf  # σ, and log(ε / aim) there
        self.above, self._room = math.inf, -math.inf

    def lies_above(self, sigma: float) -> bool:
        """Whether spent(σ) > aim; asks for ε only where what is known does not decide."""
        if sigma <= self.below:
            return True
        if sigma >= self.above:
            return False
        epsilon = self._spent(sigma)
        log_ratio = math.log(epsilon / self._aim) if epsilon > 0 else -math.inf
        if epsilon > self._aim:
            self.below, self._excess = sigma, log_ratio
            return True
        self.above, self._room = sigma, log_ratio
        return False

    def narrow(self) -> None:
        """Close in from both sides: log ε as a line in log σ. Gives up where there is nothing to go by.

        False position, Illinois variant: an end that stays counts half the next time.
        """
        excess, room, before = self._excess, self._room, None
        for _ in range(12):
            known = self.below > 0 and math.isfinite(self.above) and math.isfinite(excess - room) and excess > room
            if not known or self.above < self.below * (1 + 4e-6):
                return
            guess = self.below * (self.above / self.below) ** (excess / (excess - room))
            guess = min(max(guess, self.below * (1 + 1e-6)), self.above * (1 - 1e-6))
            above = self.lies_above(guess)
            if above:
                excess, room = self._excess, room / 2 if before is True else room
            else:
                excess, room = excess / 2 if before is False else excess, self._room
            before = above


def _tighten(spent: Callable[[float], float], high: float, epsilon: float, tolerance: float) -> float:
    low = 0.0
    for _ in range(40):
        if spent(high) >= epsilon * (1.0 - tolerance):
            break
        middle = math.sqrt(low * high) if low > 0 else high / 2.0
        low, high = (middle, high) if spent(middle) > epsilon * (1.0 - _MARGIN) else (low, middle)
    return high


def _spent(release: GaussianRelease, delta: float, grid: float | None, *beside: GaussianRelease) -> float:
    return account([release, *beside], delta, discretisation=grid).value
