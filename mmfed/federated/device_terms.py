"""What a device that adds its own noise says of a release, by privacy mode: the header and the events of its ledger."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.one_shot_terms import LINES, ROUND, sum_name
from mmfed.federated.tasks import Task
from mmfed.privacy.calibration import noise_multiplier_for
from mmfed.privacy.events import LedgerHeader, ReleaseEvent, header_for
from mmfed.privacy.local import SENSITIVITY, local_noise_for
from mmfed.privacy.one_shot_local import ONE_SHOT_SENSITIVITY, LocalOneShotPlan, local_noise_beside
from mmfed.privacy.planning_local import expected_joins
from mmfed.privacy.units import Mode, guarantee_for

_UNSEEN = "0" * 64


def device_event(task: Task, digest: str = _UNSEEN) -> ReleaseEvent:
    """The release of one round of one device.

    Args:
        task: fixes noise, rate and steps.
        digest: hex SHA-256 of the noised update; without one, of an update still to be made (for planning).
    """
    privacy = task.config.privacy
    if privacy.mode == "user-local" and task.round_number == ROUND:
        return _one_shot_event(task, digest)
    event = ReleaseEvent(
        round=task.round_number,
        clip_norm=privacy.clip_norm,
        noise_multiplier=task.noise_multiplier,
        sampling="full",
        sampling_rate=1.0,
        planned_cohort=1,
        realised_cohort=1,
        noise_added_by="device",
        result_hash=digest,
    )
    if privacy.mode == "user-local":
        return replace(event, mechanism=privacy.local_noise, sensitivity=SENSITIVITY)
    if privacy.mode != "record":
        raise MmfedError(
            ExitCode.PRIVACY, f"privacy.mode = {privacy.mode!r}: the device adds no noise.", "use record or user-local."
        )
    return replace(
        event,
        mechanism="dp-sgd",
        sampling="poisson" if privacy.record_sample_rate < 1 else "full",
        sampling_rate=privacy.record_sample_rate,
        steps=task.config.training.steps,
    )


def _one_shot_event(task: Task, digest: str) -> ReleaseEvent:
    """User-local: one of the two vectors of the one-shot release, of norm 1 and without negative entries."""
    return ReleaseEvent(
        round=ROUND,
        line=LINES[sum_name(task.items)],
        clip_norm=1.0,
        noise_multiplier=task.noise_multiplier,
        sampling="full",
        sampling_rate=1.0,
        planned_cohort=1,
        realised_cohort=1,
        noise_added_by="device",
        result_hash=digest,
        sensitivity=ONE_SHOT_SENSITIVITY,
    )


def device_header(task: Task, key: int, noise: str) -> LedgerHeader:
    """The header of one user's ledger of one run; ``noise`` names the noise source."""
    privacy = task.config.privacy
    window = (privacy.window, privacy.window_days) if privacy.mode == "record" else (None, None)
    shared = _shared_header(
        task.run_id, task.population, privacy.mode, privacy.delta, privacy.epsilon, *window, noise=noise
    )
    return replace(shared, run_id=f"{task.run_id}/{key:016x}")


@lru_cache(maxsize=8)
def _shared_header(
    run_id: str,
    population: int,
    mode: Mode,
    delta: float | None,
    epsilon: float | None,
    window: int | None,
    window_days: float | None,
    *,
    noise: str,
) -> LedgerHeader:
    """The header all devices of a run share, but for the run id (cached: it hashes everything installed)."""
    guarantee = guarantee_for(mode, population=population, delta=delta, window=window, window_days=window_days)
    return header_for(
        guarantee,
        run_id=run_id,
        population=population,
        population_basis="users enrolled when the run started, as told by the coordinator",
        target_epsilon=epsilon,
        noise_source=noise,
    )


def device_noise(
    config: Config, *, epsilon: float, delta: float, rate: float, early: LocalOneShotPlan | None = None
) -> float:
    """The noise multiplier that every device uses, planned over ``expected_joins``; one drawn more often refuses.

    Args:
        early: user-local: the one-shot release before the rounds, which the same ε has to cover.
    """
    privacy = config.privacy
    joins = expected_joins(config.federation.rounds, rate, privacy.participations)
    if early is not None:
        return local_noise_beside(epsilon=epsilon, delta=delta, releases=joins, early=early)
    if privacy.mode == "user-local":
        return local_noise_for(epsilon=epsilon, delta=delta, releases=joins, law=privacy.local_noise)
    return noise_multiplier_for(
        epsilon=epsilon,
        delta=delta,
        sampling="poisson" if privacy.record_sample_rate < 1 else "full",
        sampling_rate=privacy.record_sample_rate,
        rounds=joins * config.training.steps,
    )
