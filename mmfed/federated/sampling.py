"""Poisson sampling of users: each enrolled user joins a round by an independent coin of the same bias."""

from __future__ import annotations

import secrets
from typing import Literal

import numpy as np

from mmfed.rng import derive, hash_uniform
from mmfed.types import IntArray


def sampling_rate(planned_cohort: int | None, population: int) -> float:
    """q = planned cohort / population, at most 1; None means everyone."""
    return 1.0 if planned_cohort is None else min(1.0, planned_cohort / population)


def poisson_cohort(
    users: IntArray, rate: float, *, seed: int, round_number: int, source: Literal["seeded", "csprng"]
) -> IntArray:
    """The users of a round, in the order given.

    Args:
        users: [population] uint64 user keys.
        rate: bias of the coin; 1 takes everyone.
        source: "seeded" repeats for (seed, round) whatever the order of users; "csprng" cannot be predicted, which
            amplification by sampling needs outside a simulation.
    """
    if rate >= 1.0:
        return users.copy()
    if source == "seeded":
        coins = hash_uniform(derive(seed, "cohort", round_number), users, np.zeros(1, dtype=np.int64))[:, 0]
    else:
        words = np.frombuffer(secrets.token_bytes(8 * len(users)), dtype="<u8")
        coins = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return users[coins < rate]


def fixed_cohort(
    users: IntArray, size: int, *, seed: int, round_number: int, source: Literal["seeded", "csprng"]
) -> IntArray:
    """Exactly ``size`` users (all, if there are fewer), without replacement; no amplification may be claimed for it."""
    if size >= len(users):
        return users.copy()
    if source == "seeded":
        ranks = hash_uniform(derive(seed, "cohort", round_number), users, np.zeros(1, dtype=np.int64))[:, 0]
    else:
        ranks = np.frombuffer(secrets.token_bytes(8 * len(users)), dtype="<u8")
    return users[np.sort(np.argsort(ranks, kind="stable")[:size])]
