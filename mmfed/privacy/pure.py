"""Composition of pure differential privacy: k releases, each (ε0, 0), at a δ above 0.

Nothing but ε0 is used, so the account holds for any such mechanism (here: Laplace noise on a vector clipped in L1). The
worst (ε0, 0) mechanism is randomised response, whose composition is exact (Kairouz, Oh, Viswanath 2015, theorem 3.3).
"""

from __future__ import annotations

import math
from functools import lru_cache

from dp_accounting.pld import common
from dp_accounting.pld import privacy_loss_distribution as pld

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.units import check_count, check_delta, check_positive

_GRID = 1e-4
_MOST_BINS = 1e6


def composed_epsilon(epsilon: float, count: int, delta: float) -> tuple[float, float]:
    """ε at ``delta`` of ``count`` releases of ``epsilon``-DP each, never above count · ε0.

    Returns:
        ε in nats, and the grid of the loss distribution in nats (0.0 where plain addition is the smaller bound).

    Raises:
        MmfedError: a parameter is out of range.
    """
    check_positive("epsilon", epsilon)
    check_count("count", count)
    check_delta(delta)
    return _composed(float(epsilon), int(count), float(delta))


@lru_cache(maxsize=4096)  # many devices of one run spend in step
def _composed(epsilon: float, count: int, delta: float) -> tuple[float, float]:
    plain = epsilon * count
    # An exact divisor of ε0: both losses of randomised response lie on the grid, and nothing is lost by rounding.
    steps = math.ceil(epsilon / max(_GRID, 2 * plain / _MOST_BINS))
    grid = epsilon / steps
    one = pld.from_privacy_parameters(
        common.DifferentialPrivacyParameters(epsilon, 0.0), value_discretization_interval=grid
    )
    whole = one.self_compose(count) if count > 1 else one
    value = float(whole.get_epsilon_for_delta(delta))
    return (max(0.0, value), grid) if value < plain else (plain, 0.0)


def release_epsilon_for(*, epsilon: float, delta: float, count: int) -> float:
    """The largest ε0, to 1e-6 relative, whose ``count`` releases stay within ``epsilon`` at ``delta``.

    Raises:
        MmfedError: a parameter is out of range.
    """
    check_positive("epsilon", epsilon)
    check_count("count", count)
    check_delta(delta)
    low, high = epsilon / count, epsilon
    if high > 1e4:
        raise MmfedError(ExitCode.PRIVACY, f"epsilon = {epsilon!r}: no protection.", "use an epsilon below 10000.")
    # a single release has ln((e^ε0 - δ) / (1 - δ)) < ε0 at δ > 0: the root may lie a little above ε
    while composed_epsilon(high, count, delta)[0] < epsilon:
        high *= 1.0 + 1e-3
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        fits = composed_epsilon(middle, count, delta)[0] <= epsilon * (1 - 1e-6)
        low, high = (middle, high) if fits else (low, middle)
    return low
