"""One simulated run from configuration to results."""

from __future__ import annotations

import json
import os
import platform
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mmfed.config import Config, build_config
from mmfed.data.partition import partition_users
from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.ranking import quick_metrics
from mmfed.evaluation.rating import mse
from mmfed.federated.coordinator import server_app
from mmfed.federated.device_store import DeviceStore
from mmfed.federated.one_shot import FILE as ONE_SHOT_FILE
from mmfed.federated.one_shot import load_one_shot, teacher_of, use_one_shot
from mmfed.federated.participant import client_app
from mmfed.federated.progress import load_parameters
from mmfed.federated.secure_terms import check_nodes
from mmfed.federated.strategy import RoundRecord
from mmfed.federated.workspace import Workspace, load_workspace
from mmfed.models.base import Recommender
from mmfed.models.baselines.base import needed_content
from mmfed.models.baselines.registry import build_baseline
from mmfed.models.scoring import ModelScorer
from mmfed.privacy.units import CENTRAL_MODES, DEVICE_MODES, Guarantee, guarantee_for
from mmfed.records import RunFolder, read_lines, write_json, write_text
from mmfed.simulation.assess import Assessed, assess, assess_baselines, assess_rating_baselines, assess_ratings
from mmfed.simulation.centralised import run_centralised
from mmfed.simulation.defence_notes import defence_notes
from mmfed.simulation.inprocess import run_on
from mmfed.simulation.people import check_answered, check_listed
from mmfed.simulation.run_folders import no_false_start, only_writer
from mmfed.simulation.scorer import run_model
from mmfed.simulation.shared_grid import SharedGrid
from mmfed.training.objective import check_tasks
from mmfed.training.update import LocalWork
from mmfed.types import IntArray

SHOWN_USERS, SHOWN_HISTORY, SHOWN_LIST = 5, 6, 10


class Watcher(Protocol):
    """Who is told how a run goes (the command line's progress display)."""

    def stage(self, name: str) -> None:
        """A new stage starts: loading, features, training, evaluation."""

    def features(self, modality: str, done: int, total: int) -> None:
        """Encoding of a modality goes on."""

    def planned(self, population: int, rate: float, noise_multiplier: float | None) -> None:
        """The cohort plan, before the first round."""

    def processes(self, count: int) -> None:
        """How many processes compute the rounds from now on."""

    def round(self, record: RoundRecord, epsilon: float | None) -> None:
        """A round is done and durable; ``epsilon`` is the figure to print (worst device in record mode)."""


@dataclass(frozen=True, eq=False)
class RunResult:
    """A finished run."""

    run: RunFolder
    results: Mapping[str, Any]
    federated: Assessed
    baselines: list[Assessed]


def simulate(config: Config, *, resume: bool = False, watcher: Watcher | None = None) -> RunResult:
    """Train, evaluate and write a run folder.

    Raises:
        MmfedError: anything a person can mend; the run folder stays usable for ``resume``.
    """
    run = RunFolder(config.run.folder / config.run.name)
    with only_writer(run), no_false_start(run):
        _check_held(run, config, resume=resume)
        _check_names(config)
        check_nodes(config, config.federation.nodes)
        if config.run.threads:
            torch.set_num_threads(config.run.threads)
        _tell(watcher, "loading")
        check_listed(config.data)
        workspace = load_workspace(config, progress=None if watcher is None else watcher.features)
        partition_users(workspace.shop.interactions.user_count, config.federation.nodes, 0)
        _check_targets(workspace)
        _check_tasks(workspace)
        _check_content(workspace)
        check_answered(workspace)
        if not run.config.exists():
            write_json(run.environment, environment())
            write_text(run.config, config.to_toml())
        _tell(watcher, "training")
        observer = _Observer(workspace, run, watcher)
        if config.federation.backend == "centralised":
            run_centralised(config, workspace, run, observer, resume=resume)
        else:
            _backend(config, run, observer, resume=resume)
        _tell(watcher, "evaluation")
        return evaluate_run(run, config, workspace)


def evaluate_run(run: RunFolder, config: Config, workspace: Workspace) -> RunResult:
    """Read the test split once: figures of the run's model and of the baselines; writes ``results.json`` and
    ``recommendations.json``."""
    learned = run_model(run, config, workspace)
    vectors = private_vectors(run, workspace, learned.model, workspace.evaluated(workspace.split.test))
    history = workspace.before_test
    timelines = workspace.timelines(history, workspace.split.test)
    scorer = learned.scorer(history, vectors, timelines=timelines, people=workspace.people)
    ratings = config.training.objective == "mse"
    figures = assess_ratings(workspace, scorer.ratings) if ratings else assess(workspace, scorer)
    guarantee = guarantee_of(run, config, workspace.shop.interactions.user_count)
    place = "centralised" if config.federation.backend == "centralised" else "federated"
    federated = Assessed(f"{config.model.name} {place}", _privacy_label(config), figures)
    baselines = assess_rating_baselines(workspace) if ratings else assess_baselines(workspace)
    results = {
        "run": run.path.name,
        "shop": workspace.shop.name,
        "items": workspace.shop.catalogue.size,
        "users": workspace.shop.interactions.user_count,
        "interactions": len(workspace.shop.interactions),
        "split": workspace.split.description,
        "protocol": config.evaluation.protocol,
        "round": learned.round,
        "ensemble": learned.weight if np.isfinite(learned.weight) else None,  # None: the one-shot release alone
        "rounds": len(read_lines(run.metrics)),
        "selection": config.selection,
        "privacy": privacy_statement(config, guarantee),
        "modalities": {
            name: {"width": width, "present": present} for name, (width, present) in workspace.features.shape.items()
        },
        "methods": [
            {"name": one.name, "kind": one.kind, "federated": one is federated, **one.result.to_json()}
            for one in [*baselines, federated]
        ],
        "notes": [*workspace.notes, *_selection_notes(config), *_sample_notes(workspace, ratings=ratings)],
    }
    results["notes"] += defence_notes(run, config)
    write_json(run.results, results)
    write_json(run.recommendations, sample_recommendations(workspace, figures.lists, figures.evaluated_users))
    return RunResult(run, results, federated, baselines)


def guarantee_of(run: RunFolder, config: Config, population: int) -> Guarantee:
    """What the run promises, with the ε its ledgers have charged (the worst device's where they add the noise)."""
    privacy = config.privacy
    if privacy.mode == "none":
        return guarantee_for("none")
    if privacy.mode in (*CENTRAL_MODES, "user-distributed"):
        lines = read_lines(run.ledger)
        header = lines[0]["body"] if lines else {"population": population}
        spent = _claimed(lines)
        return guarantee_for(privacy.mode, epsilon=spent, population=int(header["population"]), delta=privacy.delta)
    record = privacy.mode == "record"
    return guarantee_for(
        privacy.mode,
        epsilon=worst_device(run),
        population=population,
        delta=privacy.delta,
        window=privacy.window if record else None,
        window_days=privacy.window_days if record else None,
    )


def worst_device(run: RunFolder) -> float:
    """The largest ε any simulated device has charged in its own ledger."""
    return max((_claimed(read_lines(path)) for path in device_ledgers(run)), default=0.0)


def device_ledgers(run: RunFolder) -> list[Path]:
    """The ledgers of the run's simulated devices, sorted."""
    return sorted(run.devices.glob("*/*/ledgers/*.jsonl"))


def _claimed(lines: list[dict[str, Any]]) -> float:
    return max((float(line["body"]["epsilon"]) for line in lines if line["kind"] == "release"), default=0.0)


def privacy_statement(config: Config, guarantee: Guarantee) -> dict[str, Any]:
    """The guarantee as plain data; infinity is written as None."""
    plain = asdict(guarantee)
    if not np.isfinite(guarantee.epsilon):
        plain["epsilon"] = None
    seeded = config.privacy.mode != "none" and config.privacy.noise_source == "seeded"
    warning = "seeded noise: a simulation of the guarantee; whoever knows the seed can subtract it" if seeded else None
    if config.privacy.mode == "user-distributed" and config.privacy.masks == "skipped":
        unmasked = "masks skipped: the server of this simulation saw the sum of every node"
        warning = unmasked if warning is None else f"{warning}; {unmasked}"
    return plain | {"sentence": guarantee.sentence(), "simulated": warning}


def private_vectors(
    run: RunFolder, workspace: Workspace, model: Recommender, chosen: IntArray | None = None
) -> np.ndarray | None:
    """[users, p] the devices' private vectors, read from the simulated devices' own stores.

    Args:
        chosen: whose are read, ascending; the rows of others stay zero, and cost no memory. None reads everyone's.
    """
    if not model.private_dimensions:
        return None
    vectors = np.zeros((workspace.shop.interactions.user_count, model.private_dimensions), dtype=np.float32)
    for folder in run.devices.glob("*/node-*-of-*"):
        index, nodes = (int(part) for part in folder.name.removeprefix("node-").split("-of-"))
        held = np.arange(index, len(vectors), nodes)
        users = held if chosen is None else chosen[chosen % nodes == index]
        store = DeviceStore(folder / "vectors", users=len(held), dimensions=model.private_dimensions)
        vectors[users] = store.before(users // nodes, 2**62)
    return vectors


def sample_recommendations(workspace: Workspace, lists: np.ndarray | None, users: np.ndarray) -> list[dict[str, Any]]:
    """Lists of a few test users with what they did before, for the report; item indices, labels and pictures."""
    if lists is None:
        return []
    history, test = workspace.before_test, workspace.split.test
    rows = np.linspace(0, len(users) - 1, min(SHOWN_USERS, len(users))).astype(int)
    shown = []
    for row in rows:
        user = int(users[row])
        shown.append(
            {
                "user": str(history.user_ids[user]),
                "history": [_item(workspace, item) for item in history.items[history.rows(user)][-SHOWN_HISTORY:]],
                "recommended": [_item(workspace, item) for item in lists[row][:SHOWN_LIST] if item >= 0],
                "held_out": [_item(workspace, item) for item in test.items[test.rows(user)][:SHOWN_HISTORY]],
            }
        )
    return shown


def _item(workspace: Workspace, item: int) -> dict[str, Any]:
    catalogue = workspace.shop.catalogue
    image = catalogue.images[int(item)]
    return {
        "item": catalogue.item_ids[int(item)],
        "label": catalogue.label(int(item)),
        "image": None if image is None else str(image),
    }


class _Observer:
    """Validates on the exact data of the simulation, and passes progress on."""

    def __init__(self, workspace: Workspace, run: RunFolder, watcher: Watcher | None) -> None:
        self._workspace = workspace
        self._run = run
        self._watcher = watcher
        self._model = workspace.new_model()
        self._one_shot_used = False

    def enrolled(self, population: int, rate: float, noise_multiplier: float | None) -> None:
        if self._watcher is not None:
            self._watcher.planned(population, rate, noise_multiplier)

    def validate(self, round_number: int, parameters: Mapping[str, Tensor]) -> Mapping[str, float] | None:
        del round_number
        split, config = self._workspace.split, self._workspace.config
        if not len(split.validation):
            return None
        if not self._one_shot_used and (self._run.checkpoints / ONE_SHOT_FILE).exists():
            features, catalogue = self._workspace.features.modalities, self._workspace.shop.catalogue
            teacher = teacher_of(load_one_shot(self._run), config, features, catalogue)
            use_one_shot(self._model, teacher, config)
            self._one_shot_used = True
        load_parameters(self._model, parameters)
        chosen = None if config.training.objective == "mse" else self._workspace.evaluated(split.validation)
        vectors = private_vectors(self._run, self._workspace, self._model, chosen)
        history = self._workspace.timelines(split.train, split.validation, split.test)
        people, rating_range = self._workspace.people, config.training.rating_range
        scorer = ModelScorer(self._model, history, user_vectors=vectors, people=people, rating_range=rating_range)
        if config.training.objective == "mse":
            rated = np.isfinite(split.validation.values)
            users, chosen = split.validation.user_of_row()[rated], split.validation.items[rated]
            if not len(users):
                return None
            return {"mse": mse(scorer.ratings(users, chosen), split.validation.values[rated])}
        items = self._workspace.shop.catalogue.size
        return quick_metrics(scorer, split.train, split.validation, config.evaluation.k, item_count=items, users=chosen)

    @property
    def private_vectors(self) -> bool:
        return self._model.private_dimensions > 0

    def processes(self, count: int) -> None:
        if self._watcher is not None:
            self._watcher.processes(count)

    def round_done(self, record: RoundRecord) -> None:
        if self._watcher is None:
            return
        by_devices = self._workspace.config.privacy.mode in DEVICE_MODES
        self._watcher.round(record, worst_device(self._run) if by_devices else record.epsilon)


def _backend(config: Config, run: RunFolder, observer: _Observer, *, resume: bool) -> None:
    nodes, flat = config.federation.nodes, config.to_flat()
    server = server_app(run.path, observer, resume=resume)
    if config.federation.backend == "ray":
        from mmfed.simulation.ray import run_ray

        private = config.privacy.mode == "record" or observer.private_vectors
        address = config.federation.ray_address
        run_ray(
            server,
            client_app(run.devices.resolve()),
            nodes=nodes,
            run_config=flat,
            address=address,
            private_state=private,
        )
        return
    workers = config.federation.workers
    with SharedGrid(
        client_app(), nodes=nodes, state_folder=run.devices, workers=workers, tell=observer.processes
    ) as grid:
        run_on(grid, server, flat)


def _check_held(run: RunFolder, config: Config, *, resume: bool) -> None:
    """Refuse a folder that holds a run, unless that run is to be continued with the same configuration."""
    if not run.config.exists():
        return
    if not resume:
        raise MmfedError(
            ExitCode.STORAGE,
            f"{run.path}: holds a run already.",
            "continue it with --resume, or name the new one with --set run.name=NAME.",
        )
    check_unchanged(run, config)


def check_unchanged(run: RunFolder, config: Config, *, free: Sequence[str] = ()) -> None:
    """Check a configuration against the one a run was started with; paths may be spelled in any way.

    Args:
        free: beginnings of keys that may differ, besides those that do not decide the result.

    Raises:
        MmfedError: names the keys that differ.
    """
    held = build_config(tomllib.loads(run.config.read_text(encoding="utf-8")), where=str(run.config))
    changed = _changed_keys(held.model_dump(), config.model_dump())
    allowed = (
        "run.threads",
        "federation.round_timeout",
        "federation.workers",
        "federation.ray_address",
        "run.folder",
        *free,
    )
    names = ", ".join(sorted(key for key in changed if not key.startswith(allowed)))
    if names:
        raise MmfedError(
            ExitCode.CONFIG,
            f"{run.path}: was started with another configuration ({names}).",
            "resume with the same scenario and --set values, or give the new run another name.",
        )


def _changed_keys(held: Any, given: Any, prefix: str = "") -> set[str]:
    if isinstance(held, dict) and isinstance(given, dict):
        return set().union(
            *(_changed_keys(held.get(k), given.get(k), f"{prefix}{k}.") for k in held.keys() | given.keys())
        )
    if isinstance(held, Path) and isinstance(given, Path):
        held, given = held.resolve(), given.resolve()
    return set() if held == given else {prefix.rstrip(".")}


def environment() -> dict[str, Any]:
    """Versions and machine, for whoever repeats the run."""
    import importlib.metadata as metadata

    names = ("mmfed", "torch", "torchvision", "transformers", "numpy", "flwr", "opacus", "dp-accounting", "polars")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "versions": versions,
    }


def _check_names(config: Config) -> None:
    """Refuse an unknown metric or baseline before hours of training, not after."""
    for baseline in config.evaluation.baselines:
        build_baseline(baseline)
    name, _, k = config.evaluation.metric.partition("@")
    if name not in ("recall", "ndcg", "hit_rate") or not k.isdigit() or int(k) not in config.evaluation.k:
        choices = ", ".join(f"{one}@{k}" for one in ("recall", "ndcg", "hit_rate") for k in config.evaluation.k)
        raise MmfedError(
            ExitCode.CONFIG,
            f"evaluation.metric = {config.evaluation.metric!r}: not a validation metric of this run.",
            f"choose one of {choices}.",
        )


def _check_content(workspace: Workspace) -> None:
    """Refuse a baseline that reads content on a shop without any, before training and not after."""
    for name in workspace.config.evaluation.baselines:
        baseline = build_baseline(name)
        if baseline.reads_content:
            needed_content(baseline, workspace.features.modalities, workspace.split.train)


def _check_targets(workspace: Workspace) -> None:
    """Refuse a split that leaves nothing to measure, before training and not after."""
    if not len(workspace.split.test):
        raise MmfedError(
            ExitCode.DATA,
            f"{workspace.shop.name}: the split leaves no interaction to test on.",
            "give users longer histories, or lower data.split.minimum_history.",
        )


def _check_tasks(workspace: Workspace) -> None:
    """Refuse a bound on tasks that the model has not."""
    config = workspace.config
    work = LocalWork(training=config.training, privacy=config.privacy, seed=config.run.seed, round_number=1)
    check_tasks(workspace.new_model(), work)


def _privacy_label(config: Config) -> str:
    return {
        "none": "no privacy",
        "user-central": "user-level DP",
        "user-ftrl": "user-level DP, correlated noise",
        "user-local": "user-level DP, trusting nobody",
        "user-distributed": "user-level DP, distributed",
        "record": "record-level DP (Opacus)",
    }[config.privacy.mode]


def _selection_notes(config: Config) -> list[str]:
    if config.privacy.mode == "none":
        return []
    notes = []
    if config.selection == "best-validation":
        notes.append("the round was chosen by a private validation figure: selection not charged")
    if config.federation.early_stopping is not None:
        notes.append("training could stop early on a private validation figure: that choice is not charged")
    return notes


def _sample_notes(workspace: Workspace, *, ratings: bool) -> list[str]:
    """Whose figures these are, where not everybody's."""
    users = None if ratings else workspace.evaluated(workspace.split.test)
    if users is None:
        return []
    everyone = int((workspace.split.test.lengths > 0).sum())
    return [f"test figures of {len(users)} users drawn at random (seeded) from {everyone} (evaluation.users)"]


def _tell(watcher: Watcher | None, stage: str) -> None:
    if watcher is not None:
        watcher.stage(stage)


def read_results(run: RunFolder) -> dict[str, Any]:
    """The results of a finished run.

    Raises:
        MmfedError: the folder holds none.
    """
    try:
        return json.loads(run.results.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MmfedError(
            ExitCode.STORAGE,
            f"{run.path}: no results in it.",
            "finish the run (mmfed simulate … --resume), or name another.",
        ) from None
    except ValueError as error:
        raise MmfedError(
            ExitCode.STORAGE, f"{run.results}: not valid JSON ({error}).", "run mmfed evaluate again."
        ) from None
