"""The one-shot release under secure aggregation: the noise of its two sums, added by the devices in shares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from mmfed.privacy.accounting import epsilon as account
from mmfed.privacy.distributed import INFLATION, DistributedNoise, sensitivities
from mmfed.privacy.distributed_planning import distributed_noise_multiplier, minimum_cohort
from mmfed.privacy.one_shot import default_share
from mmfed.privacy.skellam import SkellamRelease
from mmfed.privacy.units import check_count, check_delta, check_epsilon, check_population, check_rate, default_delta

NORM = 1.0  # of every user's vector, by construction; ``DistributedNoise`` clips to it all the same


@dataclass(frozen=True, kw_only=True)
class SharedOneShotPlan:
    """What noise the sums get from the devices together.

    Unit: one user, everything the user ever did; adjacency: zero-out of one user; trust: the server is honest but
    curious and sees sums alone. Everybody is asked: no amplification is claimed.

    Args:
        noises: by name, popularity first; co-occurrence is missing where popularity takes everything.
    """

    noises: Mapping[str, DistributedNoise]

    @property
    def cooccurrence_noise(self) -> float | None:
        """Least deviation on each coordinate of the packed co-occurrence of all users; None: none is asked for."""
        return self.noises["cooccurrence"].standard_deviation if "cooccurrence" in self.noises else None

    @property
    def upload(self) -> int:
        """Bytes of one device's masked vectors together."""
        return sum((one.width * one.bits + 7) // 8 for one in self.noises.values())

    def noise_multipliers(self) -> dict[str, float]:
        """σ of each sum relative to the largest norm of a rounded vector, by name."""
        return {name: one.noise_multiplier for name, one in self.noises.items()}

    def releases(self) -> dict[str, SkellamRelease]:
        """By name, what the accountant sees of each sum."""
        return {name: one.release() for name, one in self.noises.items()}


@lru_cache(maxsize=64)
def plan_one_shot_shares(
    *,
    population: int,
    items: int,
    pairs: int,
    epsilon: float,
    delta: float | None = None,
    popularity_share: float | None = None,
    minimum_survivors: float = 0.8,
) -> SharedOneShotPlan:
    """The noise that makes popularity and co-occurrence together (ε, δ) for one user.

    Args:
        population: enrolled users, N; all are asked.
        items: coordinates of the popularity.
        pairs: coordinates of the packed co-occurrence; rounding depends on them.
        popularity_share: of the squared signal-to-noise ratio; None takes ``default_share``.
        minimum_survivors: share of the users that must be in a sum.

    Raises:
        MmfedError: a parameter is out of range.
    """
    check_population(population)
    check_epsilon(epsilon)
    sizes = {"popularity": check_count("items", items), "cooccurrence": check_count("pairs", pairs)}
    chosen = check_delta(default_delta(population) if delta is None else delta)
    alone = distributed_noise_multiplier(epsilon=epsilon, delta=chosen, parameters=items, rounds=1)
    share = default_share(population, alone * (1 + INFLATION)) if popularity_share is None else popularity_share
    check_rate("popularity_share", share)
    parts = {"popularity": share, "cooccurrence": 1.0 - share}

    def kinds(sigma: float) -> dict[str, SkellamRelease]:
        found = {}
        for name, part in parts.items():
            if part > 0:
                square, l1 = sensitivities(sizes[name])
                found[name] = SkellamRelease(noise_multiplier=sigma / math.sqrt(part), l2_squared=square, l1=l1)
        return found

    def fits(sigma: float) -> bool:
        return account(list(kinds(sigma).values()), chosen).value <= epsilon * (1 - 1e-6)

    low, high = alone / 2, alone
    while not fits(high):
        low, high = high, 2 * high
    while high - low > 1e-5 * high:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    minimum = minimum_cohort(population, minimum_survivors)
    return SharedOneShotPlan(
        noises={
            name: DistributedNoise(
                clip_norm=NORM,
                noise_multiplier=kind.noise_multiplier,
                dimension=sizes[name],
                cohort=population,
                minimum=minimum,
            )
            for name, kind in kinds(high).items()
        }
    )
