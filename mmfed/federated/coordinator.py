"""The server side of a run: enrol, plan the noise, run the rounds, keep checkpoints."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from torch import Tensor

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import faults, tasks, wire
from mmfed.federated.banded_release import BandedRelease
from mmfed.federated.device_terms import device_noise
from mmfed.federated.exposure import ExposureWatch
from mmfed.federated.one_shot import OneShotRound, Releases, collect_one_shot, teacher_of, use_one_shot
from mmfed.federated.one_shot_release import LocalOneShotRelease, SharedOneShotRelease
from mmfed.federated.one_shot_sum import OneShotRelease
from mmfed.federated.one_shot_terms import check_one_shot, device_plan, one_shot_plan
from mmfed.federated.optimiser import ServerOptimiser
from mmfed.federated.participation import SeparatedSampler, banded_noise, banded_terms
from mmfed.federated.progress import Observer, Progress
from mmfed.federated.release import Release
from mmfed.federated.run_config import read_run_config
from mmfed.federated.sampling import sampling_rate
from mmfed.federated.secure_enrolment import collect_identities
from mmfed.federated.secure_release import SecureRelease
from mmfed.federated.secure_strategy import SecureStrategy
from mmfed.federated.secure_terms import check_nodes, dimension_of, round_noise
from mmfed.federated.strategy import CohortStrategy, RoundRecord, RoundState
from mmfed.federated.workspace import Workspace, load_workspace
from mmfed.privacy.calibration import noise_multiplier_for
from mmfed.privacy.distributed_planning import distributed_noise_multiplier
from mmfed.privacy.keyed_noise import KeyedNoise
from mmfed.privacy.keys import load_or_create_key
from mmfed.privacy.ledger import Ledger, header_for
from mmfed.privacy.mechanisms import SecureNoise, SeededNoise
from mmfed.privacy.one_shot_local import LocalOneShotPlan
from mmfed.privacy.one_shot_shares import SharedOneShotPlan
from mmfed.privacy.units import CENTRAL_MODES, default_delta, guarantee_for
from mmfed.records import RunFolder, write_text
from mmfed.training.public import pretrained, pretraining_steps, public_update
from mmfed.training.teacher import taught
from mmfed.types import IntArray

ENROLMENT_POLL = 0.5  # seconds between looks for nodes
_log = logging.getLogger(__name__)


def server_app(folder: Path | None = None, observer: Observer | None = None, *, resume: bool = False) -> ServerApp:
    """The Flower ServerApp; the configuration comes with the run config (``read_run_config``).

    Args:
        folder: run folder; None takes the configuration's.
        observer: validates and shows progress.
        resume: go on from the last checkpoint of the folder.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        config, asked_to_resume = read_run_config(context.run_config)
        run = RunFolder(folder or config.run.folder / config.run.name)
        coordinate(grid, config, run, observer, resume=resume or asked_to_resume)

    return app


def coordinate(grid: Grid, config: Config, run: RunFolder, observer: Observer | None, *, resume: bool) -> None:
    """Run all rounds that are still to do.

    Raises:
        MmfedError: too few nodes, a catalogue mismatch, an exhausted budget, a full disk, a damaged checkpoint.
    """
    workspace = load_workspace(config, interactions_optional=True)
    key = load_or_create_key(run.path / "key.pem")
    run_id = _run_id(run)
    model = workspace.new_model()
    shapes = wire.shared_shapes(model)
    if config.one_shot.enabled:
        check_one_shot(config, model.item_count)
    nodes = enrol(grid, config, run_id, workspace)
    check_nodes(config, len(nodes))
    population = sum(len(users) for users in nodes.values())
    rate = sampling_rate(config.federation.cohort, population)
    sampler = _sampler(config, nodes)
    if sampler is not None:
        rate = sampler.planned / population
    sigma = planned_noise(config, population, rate, parameters=dimension_of(shapes), item_count=model.item_count)
    if observer is not None:
        observer.enrolled(population, rate, sigma)
    progress = Progress.load(run, config, key, resume=resume)
    section = config.federation.server_optimiser
    by_mode = config.privacy.mode != "none"
    everywhere = by_mode if section.global_second_moment is None else section.global_second_moment
    optimiser = ServerOptimiser(section, global_second_moment=everywhere)
    with _ledger(config, run, run_id, population, key) or nullcontext() as ledger:
        teacher, identities = None, {}
        if config.privacy.mode == "user-distributed" and config.privacy.masks == "always":
            joining = _enrolment_task(config, run_id, workspace, population=population, noise_multiplier=sigma or 0.0)
            identities = collect_identities(grid, joining, nodes)
        if config.one_shot.enabled:
            features = workspace.features.modalities
            asked = OneShotRound(grid, config, run_id, nodes, workspace.features.digest, model.item_count)
            early = _one_shot_release(config, asked, ledger, identities)
            found = collect_one_shot(asked, run, key, release=early, features=features)
            teacher = teacher_of(found, config, features, workspace.shop.catalogue)
            use_one_shot(model, teacher, config)
        parameters: Mapping[str, Tensor] = {}
        if not progress.tensors:
            steps = pretraining_steps(config.training.pretraining, private=by_mode, content=bool(model.features.names))
            parameters = pretrained(model, steps=steps, seed=config.run.seed)
            lessons = config.one_shot.teacher_steps
            if teacher is not None and lessons:
                parameters = taught(model, parameters, teacher, steps=lessons, seed=config.run.seed)
        else:
            parameters = {name: progress.tensors[f"model.{name}"] for name in shapes}
            optimiser.restore(
                {name[10:]: value for name, value in progress.tensors.items() if name.startswith("optimiser.")}
            )
        kept = {name[8:]: value for name, value in progress.tensors.items() if name.startswith("release.")}
        if sampler is not None and ledger is not None and sigma is not None:
            release: Release = BandedRelease(config, ledger, sigma, key=key, run_id=run_id)
            if "sampler.users" in kept:
                sampler.restore({name[8:]: value for name, value in kept.items() if name.startswith("sampler.")})
        else:
            release = Release(config, ledger, sigma, planned_cohort=max(1, round(rate * population)))
        release.restore(kept)

        watch = None
        if config.defence.alarm_rise is not None:
            watch = ExposureWatch(
                model,
                config.defence,
                names=workspace.shop.catalogue.item_ids,
                seed=config.run.seed,
                k=min(config.evaluation.k),
            )
            watch.restore(kept)

        def after_round(state: RoundState) -> bool:
            return progress.keep(state if watch is None else watch.watched(state), observer)

        settings: dict[str, Any] = {
            "config": config,
            "run_id": run_id,
            "nodes": nodes,
            "catalogue": workspace.features.digest,
            "shapes": shapes,
            "optimiser": optimiser,
            "noise_multiplier": sigma or 0.0,
            "after_round": after_round,
            "row_parameters": model.row_parameters(),
            "public": model.public_tensors(),
            "public_update": partial(public_update, model, training=config.training),
        }
        if config.privacy.mode == "user-distributed" and ledger is not None and sigma is not None:
            noise = round_noise(config, shapes, population=population, noise_multiplier=sigma)
            secure = SecureRelease(config, noise, ledger)
            strategy: CohortStrategy = SecureStrategy(secure=secure, identities=identities, **settings)
        else:
            strategy = CohortStrategy(release=release, sampler=sampler, **settings)
        if not config.federation.rounds and not progress.records:
            spent = None if ledger is None else ledger.spent().value
            after_round(RoundState(_no_round(population, spent), parameters, optimiser.state()))
        if not progress.stopped:
            strategy.start(
                grid, wire.encode(parameters, shapes), config.federation.rounds, first_round=progress.round + 1
            )


def _one_shot_release(
    config: Config, asked: OneShotRound, ledger: Ledger | None, identities: Mapping[int, bytes]
) -> Releases | None:
    shared = device_plan(config, asked.population, asked.item_count)
    if isinstance(shared, LocalOneShotPlan):
        return LocalOneShotRelease(shared)
    if shared is not None and ledger is not None:
        return SharedOneShotRelease(config, shared, ledger, identities)
    plan = one_shot_plan(config, asked.population)
    if plan is None or ledger is None:
        return None
    noise = SeededNoise(config.run.seed) if config.privacy.noise_source == "seeded" else SecureNoise()
    return OneShotRelease(config, plan, ledger, noise)


def _no_round(population: int, epsilon: float | None) -> RoundRecord:
    """The record of a run that has the one-shot release and no round."""
    return RoundRecord(
        round=0,
        planned=population,
        asked=population,
        realised=0,
        refused_nodes=0,
        seconds=0.0,
        epsilon=epsilon,
        validation=None,
    )


def enrol(grid: Grid, config: Config, run_id: str, workspace: Workspace) -> dict[int, IntArray]:
    """Wait for the nodes and ask who is there: user keys by node id.

    Raises:
        MmfedError: too few nodes within the round timeout, a node with another catalogue, or a user on two nodes.
    """
    section = config.federation
    deadline = time.monotonic() + section.round_timeout
    wanted = max(section.minimum_nodes, 1)
    while len(ids := sorted(grid.get_node_ids())) < wanted:
        if time.monotonic() > deadline:
            raise MmfedError(
                ExitCode.FEDERATION,
                f"{len(ids)} of {wanted} nodes connected within {section.round_timeout:g} s.",
                "start the missing nodes, or lower federation.minimum_nodes.",
            )
        time.sleep(ENROLMENT_POLL)
    task = _enrolment_task(config, run_id, workspace)
    messages = [grid.create_message(tasks.task_content(task), tasks.ENROL, node, "0") for node in ids]
    nodes: dict[int, IntArray] = {}
    refused: list[str] = []
    for reply in grid.send_and_receive(messages, timeout=section.round_timeout):
        node = reply.metadata.src_node_id
        if reply.has_error():
            refused.append(f"node {node}: {faults.reason(reply.error)}")
            continue
        try:
            users, digest = tasks.read_enrolment(reply.content)
        except MmfedError as fault:
            refused.append(f"node {node}: {fault.message}")
            continue
        if digest != workspace.features.digest:
            refused.append(f"node {node}: its catalogue features differ from the coordinator's")
            continue
        nodes[node] = users
    if len(nodes) < wanted:
        reason = faults.condensed(refused) or "no answer"
        raise MmfedError(
            ExitCode.FEDERATION,
            f"{len(nodes)} of {wanted} nodes could enrol ({reason}).",
            "give every node the same mmfed version, catalogue and encoders.",
        )
    if refused:
        _log.warning("left out of the run: %s", faults.condensed(refused))
    everyone = np.concatenate(list(nodes.values()))
    if len(np.unique(everyone)) != len(everyone):
        raise MmfedError(
            ExitCode.FEDERATION, "a user is enrolled on two nodes.", "let every user's data live on one node only."
        )
    if not len(everyone):
        raise MmfedError(ExitCode.FEDERATION, "the nodes hold no users.", "check the nodes' data-dir.")
    return nodes


def _enrolment_task(
    config: Config, run_id: str, workspace: Workspace, *, population: int = 0, noise_multiplier: float = 0.0
) -> tasks.Task:
    """A task of no user."""
    return tasks.Task(
        config=config,
        run_id=run_id,
        population=population,
        noise_multiplier=noise_multiplier,
        catalogue=workspace.features.digest,
        round_number=0,
        users=workspace.user_keys[:0],
    )


def planned_noise(config: Config, population: int, rate: float, *, parameters: int, item_count: int) -> float | None:
    """The noise multiplier σ of the rounds, beside the one-shot release; None without privacy or without rounds.

    User-central: planned over all rounds at the cohort's rate. User-local and record: over as many rounds as one device
    may join; a device that is drawn more often refuses. User-distributed: over all rounds, for updates of
    ``parameters`` coordinates.
    """
    privacy = config.privacy
    if privacy.mode == "none":
        return None
    if privacy.noise_multiplier is not None:
        return privacy.noise_multiplier
    if privacy.epsilon is None:
        raise MmfedError(ExitCode.PRIVACY, "neither privacy.epsilon nor privacy.noise_multiplier is set.", "set one.")
    delta = default_delta(population) if privacy.delta is None else privacy.delta
    rounds = config.federation.rounds
    if rounds == 0:
        return None
    if privacy.mode == "user-ftrl":
        return banded_noise(config, epsilon=privacy.epsilon, delta=delta)
    if privacy.mode == "user-central":
        one_shot = one_shot_plan(config, population)
        return noise_multiplier_for(
            epsilon=privacy.epsilon,
            delta=delta,
            sampling="poisson" if rate < 1 else "full",
            sampling_rate=rate,
            rounds=rounds,
            beside=() if one_shot is None else tuple(one_shot.releases().values()),
        )
    if privacy.mode == "user-distributed":
        early = device_plan(config, population, item_count)
        return distributed_noise_multiplier(
            epsilon=privacy.epsilon,
            delta=delta,
            parameters=parameters,
            rounds=rounds,
            beside=tuple(early.releases().values()) if isinstance(early, SharedOneShotPlan) else (),
        )
    alone = device_plan(config, population, item_count)
    early = alone if isinstance(alone, LocalOneShotPlan) else None
    return device_noise(config, epsilon=privacy.epsilon, delta=delta, rate=rate, early=early)


def _sampler(config: Config, nodes: Mapping[int, IntArray]) -> SeparatedSampler | None:
    """User-ftrl: draws among those who may take part again."""
    if config.privacy.mode != "user-ftrl":
        return None
    terms = banded_terms(config).participation
    users = np.concatenate(list(nodes.values()))
    return SeparatedSampler(users, terms, rounds=config.federation.rounds, wanted=config.federation.cohort)


def _ledger(config: Config, run: RunFolder, run_id: str, population: int, key: Ed25519PrivateKey) -> Ledger | None:
    privacy = config.privacy
    if privacy.mode not in (*CENTRAL_MODES, "user-distributed"):
        return None
    guarantee = guarantee_for(privacy.mode, population=population, delta=privacy.delta)
    secure = KeyedNoise(key, run_id).name if privacy.mode == "user-ftrl" else SecureNoise().name
    noise = SeededNoise(0).name if privacy.noise_source == "seeded" else secure
    header = header_for(
        guarantee,
        run_id=run_id,
        population=population,
        population_basis="users enrolled when the run started",
        target_epsilon=privacy.epsilon,
        noise_source=noise,
    )
    return Ledger.resume(run.ledger, header, key)


def _run_id(run: RunFolder) -> str:
    path = run.path / "run-id"
    if not path.exists():
        write_text(path, f"{run.path.name}-{secrets.token_hex(4)}\n")
    return path.read_text(encoding="utf-8").strip()
