"""What a one-shot round asks for, and with what noise: both ends compute it from the configuration, and compare."""

from __future__ import annotations

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import wire
from mmfed.federated.tasks import Task
from mmfed.privacy.distributed import DistributedNoise
from mmfed.privacy.distributed_planning import minimum_cohort
from mmfed.privacy.events import Line
from mmfed.privacy.one_shot import OneShotPlan, one_shot_epsilon, plan_one_shot
from mmfed.privacy.one_shot_local import LocalOneShotPlan, plan_one_shot_local
from mmfed.privacy.one_shot_shares import NORM, SharedOneShotPlan, plan_one_shot_shares
from mmfed.privacy.units import Mode
from mmfed.training.cooccurrence import packed_size
from mmfed.types import IntArray

ROUND = 0  # in tasks and ledgers: before the first round
MODES: tuple[Mode, ...] = ("none", "user-central", "user-distributed", "user-local")
ON_DEVICES: tuple[Mode, ...] = ("user-distributed", "user-local")  # every device noises a whole vector of its own
MOST_ITEMS = 20_000  # the message holds items² / 2 numbers of 8 bytes: 1.6 GB
MOST_NOISED_ITEMS = 10_000  # noise, weights and content hold several matrices of that size
MOST_PAIRED_ITEMS = 2_895  # 2^22 numbers, 32 MiB, for every device to noise, mask and send
ITEMS_UNDER_NOISE = 700
LINES: dict[str, Line] = {"popularity": "statistics", "cooccurrence": "model"}


def sum_name(items: IntArray | None) -> str:
    """Which sum a task under noise asks for: popularity first, then the co-occurrence of some items."""
    return "popularity" if items is None else "cooccurrence"


def covered_items(config: Config, item_count: int) -> int:
    """How many items the co-occurrence under noise covers."""
    return min(item_count, config.one_shot.items or ITEMS_UNDER_NOISE)


def one_shot_shapes(config: Config, item_count: int, items: IntArray | None) -> wire.Shapes:
    """What a one-shot reply holds: co-occurrence; under noise popularity first, then co-occurrence of some items."""
    if config.privacy.mode == "none":
        return {"cooccurrence": (packed_size(item_count),)}
    return {"popularity": (item_count,)} if items is None else {"cooccurrence": (packed_size(len(items)),)}


def check_one_shot(config: Config, item_count: int) -> None:
    """Refuse what cannot be done.

    Raises:
        MmfedError: a privacy mode without a one-shot release, noise given instead of ε, too large a catalogue, or too
            many pairs for a device.
    """
    privacy = config.privacy
    if privacy.mode not in MODES:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"one_shot.enabled = true with privacy.mode = {privacy.mode!r}: there is no one-shot release there.",
            f"set one_shot.enabled = false, or privacy.mode to one of {', '.join(MODES[1:])}.",
        )
    if privacy.mode != "none" and (privacy.noise_multiplier is not None or privacy.epsilon is None):
        raise MmfedError(
            ExitCode.PRIVACY,
            "one_shot.enabled = true: its noise is planned from privacy.epsilon, and privacy.noise_multiplier is set.",
            "set privacy.epsilon and leave privacy.noise_multiplier out.",
        )
    if privacy.mode == "user-local" and privacy.local_noise != "gaussian":
        raise MmfedError(
            ExitCode.PRIVACY,
            f"one_shot.enabled = true with privacy.local_noise = {privacy.local_noise!r}: its vectors are bounded in "
            "L2, which Laplace noise does not protect.",
            "set privacy.local_noise = 'gaussian', or one_shot.enabled = false.",
        )
    most = MOST_ITEMS if privacy.mode == "none" else MOST_NOISED_ITEMS
    if item_count > most:
        raise MmfedError(
            ExitCode.CONFIG,
            f"one_shot.enabled = true: {item_count} items need a message of {packed_size(item_count) * 8 >> 20} MiB.",
            f"set one_shot.enabled = false; with this privacy mode it serves catalogues of at most {most} items.",
        )
    pairs = covered_items(config, item_count)
    if privacy.mode in ON_DEVICES and pairs > MOST_PAIRED_ITEMS:
        raise MmfedError(
            ExitCode.CONFIG,
            f"one_shot.items: the pairs of {pairs} items are {packed_size(pairs):,} numbers, "
            f"{packed_size(pairs) * 8 >> 20} MiB, which every device has to noise and send in mode {privacy.mode}.",
            f"set one_shot.items to at most {MOST_PAIRED_ITEMS} ({packed_size(MOST_PAIRED_ITEMS) * 8 >> 20} MiB), or "
            f"leave it out ({ITEMS_UNDER_NOISE}).",
        )


def one_shot_plan(config: Config, population: int) -> OneShotPlan | None:
    """Mode ``user-central``: the noise of a run's one-shot release; None elsewhere, or without a one-shot round."""
    if not config.one_shot.enabled or config.privacy.mode != "user-central":
        return None
    return plan_one_shot(
        population=population,
        epsilon=_epsilon(config),
        delta=config.privacy.delta,
        popularity_share=config.one_shot.popularity_share,
    )


def device_plan(config: Config, population: int, item_count: int) -> SharedOneShotPlan | LocalOneShotPlan | None:
    """Where devices add the noise: as ``one_shot_plan``."""
    section, privacy = config.one_shot, config.privacy
    if not section.enabled or privacy.mode not in ON_DEVICES:
        return None
    if privacy.mode == "user-local":
        return plan_one_shot_local(
            population=population,
            epsilon=_epsilon(config),
            delta=privacy.delta,
            popularity_share=section.popularity_share,
        )
    return plan_one_shot_shares(
        population=population,
        items=item_count,
        pairs=packed_size(covered_items(config, item_count)),
        epsilon=_epsilon(config),
        delta=privacy.delta,
        popularity_share=section.popularity_share,
        minimum_survivors=privacy.minimum_survivors,
    )


def sum_noise(
    config: Config, item_count: int, *, population: int, noise_multiplier: float, items: IntArray | None
) -> DistributedNoise:
    """Mode ``user-distributed``: the parameters of one sum.

    Raises:
        MmfedError: a parameter is out of range.
    """
    return DistributedNoise(
        clip_norm=NORM,
        noise_multiplier=noise_multiplier,
        dimension=item_count if items is None else packed_size(len(items)),
        cohort=population,
        minimum=minimum_cohort(population, config.privacy.minimum_survivors),
    )


def check_offer(task: Task, item_count: int) -> None:
    """On a device: refuse a sum that is not part of the release, or whose noise is less than this device plans itself.

    Raises:
        MmfedError: names what is asked and what is planned.
    """
    config = task.config
    check_one_shot(config, item_count)
    plan = device_plan(config, max(task.population, 2), item_count)
    name, pairs = sum_name(task.items), covered_items(config, item_count)
    planned = {} if plan is None else plan.noise_multipliers()
    said = None
    if name not in planned:
        said = f"the coordinator asks for {name}, which the plan of this run has no budget for"
    elif task.round_number != ROUND:
        said = f"the coordinator asks for it in round {task.round_number}; it comes before the rounds"
    elif task.items is not None and len(task.items) != pairs:
        said = f"the coordinator asks for the pairs of {len(task.items)} items, the plan says {pairs}"
    elif task.items is not None and len(task.items) and task.items[-1] >= item_count:
        said = "the coordinator asks for items that do not exist"
    elif not task.noise_multiplier >= planned[name] * (1 - 1e-6):
        said = (
            f"the coordinator offers noise {task.noise_multiplier:.6g} on {name}, this device plans {planned[name]:.6g}"
        )
    if said is not None:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"one-shot release: {said}.",
            "nothing was sent; run the same mmfed version and scenario on both ends.",
        )


def _epsilon(config: Config) -> float:
    return one_shot_epsilon(config.privacy.epsilon or 0.0, config.one_shot.epsilon_share, config.federation.rounds)
