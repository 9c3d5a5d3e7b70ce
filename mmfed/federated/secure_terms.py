"""What a round of mode ``user-distributed`` is: both ends compute it from the task, and compare."""

from __future__ import annotations

import math

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import wire
from mmfed.privacy.distributed import DistributedNoise
from mmfed.privacy.distributed_planning import minimum_cohort
from mmfed.privacy.secure_aggregation.context import SMALLEST_COHORT


def dimension_of(shapes: wire.Shapes) -> int:
    """Coordinates of an update."""
    return sum(math.prod(shape) for shape in shapes.values())


def asked_users(config: Config, population: int) -> int:
    """Users asked in every round: a fixed number, for no amplification by sampling is claimed."""
    planned = config.federation.cohort
    return population if planned is None else min(planned, population)


def check_nodes(config: Config, nodes: int, *, round_number: int = 1) -> None:
    """Refuse masks among so few nodes that one would learn another's vector from the sum.

    Args:
        nodes: on which the cohort lies; before the first round, all there are.

    Raises:
        MmfedError: the run masks, and the nodes are too few.
    """
    privacy = config.privacy
    if privacy.mode == "user-distributed" and privacy.masks == "always" and nodes < SMALLEST_COHORT:
        raise MmfedError(
            ExitCode.FEDERATION,
            f"round {round_number}: the cohort lies on {nodes} node{'s' if nodes != 1 else ''}; "
            f"masks need {SMALLEST_COHORT}.",
            "spread the users over more nodes (federation.nodes, one a user at best); a simulation may set "
            "privacy.masks = 'skipped'.",
        )


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
