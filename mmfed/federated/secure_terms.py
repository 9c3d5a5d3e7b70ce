"""What a round of mode ``user-distributed`` is: both ends compute it from the task, and compare."""

from __future__ import annotations

import math

from mmfed.config import Config
from mmfed.federated import wire
from mmfed.privacy.distributed import DistributedNoise
from mmfed.privacy.distributed_planning import minimum_cohort


def dimension_of(shapes: wire.Shapes) -> int:
    """Coordinates of an update."""
    return sum(math.prod(shape) for shape in shapes.values())


def asked_users(config: Config, population: int) -> int:
    """Users asked in every round: a fixed number, for no amplification by sampling is claimed."""
    planned = config.federation.cohort
    return population if planned is None else min(planned, population)


def round_noise(config: Config, shapes: wire.Shapes, *, population: int, noise_multiplier: float) -> DistributedNoise:
    """The noise of every round of a run.

    Raises:
        MmfedError: a parameter is out of range.
    """
    cohort = asked_users(config, population)
    return DistributedNoise(
        clip_norm=config.privacy.clip_norm,
        noise_multiplier=noise_multiplier,
        dimension=dimension_of(shapes),
        cohort=cohort,
        minimum=minimum_cohort(cohort, config.privacy.minimum_survivors),
    )
