"""A run for auditing: the production coordinator and devices, people in or out by a coin, every released model kept.

What is audited is the code that runs in production, with its sampling, clipping, noise and ledger. Three things differ
from the configuration given, and none touches privacy: the coordinator averages plainly, so that a released model gives
the released mean; there is no pre-training and no early stop; rounds may be fewer (σ is planned for these).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import sampling, wire
from mmfed.federated.coordinator import coordinate, planned_noise
from mmfed.federated.participant import client_app
from mmfed.federated.progress import load_parameters
from mmfed.federated.secure_terms import dimension_of
from mmfed.federated.strategy import RoundRecord
from mmfed.federated.workspace import Workspace, hold_workspace, load_workspace
from mmfed.models.base import Recommender
from mmfed.records import RunFolder, read_lines
from mmfed.rng import numpy_generator
from mmfed.simulation.inprocess import InProcessGrid
from mmfed.training.reference import train_user
from mmfed.training.update import LocalWork
from mmfed.types import BoolArray, FloatArray, IntArray

_NO_CLIP = 1e30


@dataclass(frozen=True, eq=False)
class AuditedRound:
    """One round as an attacker sees it.

    Attributes:
        number: 1-based.
        before: the model that was sent out.
        mean: [coordinates] the released mean update.
    """

    number: int
    before: Mapping[str, Tensor]
    mean: FloatArray


@dataclass(frozen=True, eq=False)
class AuditedRun:
    """A finished run with people in or out by a coin.

    Attributes:
        config: of this run.
        run: its folder: ledger, metrics.
        everyone: the workspace with all histories, as if every coin had said "in".
        people: [people] user indices whose coin was thrown.
        included: [people] what it said; the others' devices took part with an empty history, which adds nothing.
        rounds: in order.
        rate: share of users drawn a round; 1: all.
        noise_multiplier: σ as the coordinator planned it; None without privacy.
    """

    config: Config
    run: RunFolder
    everyone: Workspace
    people: IntArray
    included: BoolArray
    rounds: list[AuditedRound]
    rate: float
    noise_multiplier: float | None

    @property
    def population(self) -> int:
        return self.everyone.shop.interactions.user_count

    @property
    def planned(self) -> int:
        """The divisor of the mean."""
        return max(1, round(self.rate * self.population))

    def clip_norm(self, number: int) -> float:
        """C of a round as charged (it may move), else the configured one."""
        return self._charged.get(number, (self.config.privacy.clip_norm, 0.0))[0]

    def sigma(self, number: int) -> float:
        """σ of a round as charged, else as planned; 0 without privacy."""
        return self._charged.get(number, (0.0, self.noise_multiplier or 0.0))[1]

    @cached_property
    def _charged(self) -> dict[int, tuple[float, float]]:
        """Clip norm and σ by round, of the line "model" of the coordinator's ledger."""
        return {
            int(line["body"]["round"]): (float(line["body"]["clip_norm"]), float(line["body"]["noise_multiplier"]))
            for line in read_lines(self.run.ledger)
            if line["kind"] == "release" and line["body"]["line"] == "model" and "noise_multiplier" in line["body"]
        }

    @property
    def others(self) -> IntArray:
        """Users without a coin."""
        return np.setdiff1d(np.arange(self.population), self.people)


def audit_config(config: Config, folder: Path, *, rounds: int, name: str = "audit") -> Config:
    """The configuration of an audit's own run; see the module docstring."""
    federation, privacy = config.federation, config.privacy
    optimiser = federation.server_optimiser.model_copy(
        update={"name": "fedavg", "learning_rate": 1.0, "weight_decay": 0.0}
    )
    changes = {
        "run": config.run.model_copy(update={"name": name, "folder": folder}),
        "training": config.training.model_copy(update={"pretraining": 0, "auxiliary_weight": 0.0}),
        "one_shot": config.one_shot.model_copy(update={"enabled": False}),
        "evaluation": config.evaluation.model_copy(update={"every": 1}),
        "privacy": privacy.model_copy(update={"noise_source": "seeded", "masks": "skipped"}),
        "federation": federation.model_copy(
            update={
                "rounds": rounds,
                "backend": "inprocess",
                "nodes": 1,
                "minimum_nodes": 1,
                "early_stopping": None,
                "selection": "last",
                "server_optimiser": optimiser,
            }
        ),
    }
    return config.model_copy(update=changes)


def run_with_coins(config: Config, people: IntArray, *, seed: int) -> AuditedRun:
    """Throw a fair coin for each of ``people`` and run the federation.

    Args:
        config: from ``audit_config``; its run folder must be new.
        seed: of the coins.

    Raises:
        MmfedError: whatever stops the run.
    """
    run = RunFolder(config.run.folder / config.run.name)
    everyone = load_workspace(config)
    if everyone.own is not None:
        everyone = replace(everyone, own=None)  # people's own content would outlive an emptied history
    included = numpy_generator(seed, "audit", "coins").random(len(people)) < 0.5
    kept = np.setdiff1d(np.arange(everyone.shop.interactions.user_count), people[~included])
    planted = replace(everyone, split=replace(everyone.split, train=everyone.split.train.only_rows_of(kept)))
    hold_workspace(config, planted)
    watcher = _Watcher()
    try:
        grid = InProcessGrid(client_app(), nodes=1, state_folder=run.devices)
        coordinate(grid, config, run, watcher, resume=False)
    finally:
        hold_workspace(config, everyone)
    population = everyone.shop.interactions.user_count
    rate = sampling.sampling_rate(config.federation.cohort, population)
    models = [dict(everyone.new_model().shared_parameters()), *watcher.models]
    shapes = wire.shared_shapes(everyone.new_model())
    rounds = [
        AuditedRound(number, before, wire.flatten(after, shapes) - wire.flatten(before, shapes))
        for number, (before, after) in enumerate(pairwise(models), start=1)
    ]
    sigma = planned_noise(
        config, population, rate, parameters=dimension_of(shapes), item_count=everyone.new_model().item_count
    )
    return AuditedRun(config, run, everyone, people, included, rounds, rate, sigma)


def single_updates(audited: AuditedRun, at: AuditedRound, users: IntArray) -> FloatArray:
    """[users, coordinates] each user's update to the model of a round, clipped here and not by the code under audit.

    By the definition of local training (``training.reference``), one user at a time.
    """
    config, workspace = audited.config, audited.everyone
    model = model_of(workspace, at.before)
    shapes = wire.shared_shapes(model)
    privacy = config.privacy.model_copy(update={"clip_norm": _NO_CLIP})
    work = LocalWork(training=config.training, privacy=privacy, seed=config.run.seed, round_number=at.number)
    vector = torch.zeros(model.private_dimensions)
    found = np.zeros((len(users), sum(int(np.prod(shape)) for shape in shapes.values())))
    for row, user in enumerate(users.tolist()):
        history = workspace.histories.take(np.array([user]))
        if history.lengths[0]:
            found[row] = wire.flatten(train_user(model, history, vector, work)[0], shapes)
    if config.privacy.mode == "none":
        return found
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    return found * np.minimum(1.0, audited.clip_norm(at.number) / np.maximum(norms, 1e-300))


def model_of(workspace: Workspace, parameters: Mapping[str, Tensor]) -> Recommender:
    """A model with the given shared parameters."""
    model = workspace.new_model()
    load_parameters(model, parameters)
    return model


def choose_people(workspace: Workspace, count: int, *, seed: int) -> IntArray:
    """[people] users with a training history, at random, ascending; at least one user is left without a coin.

    Raises:
        MmfedError: there are too few to audit.
    """
    candidates = np.flatnonzero(workspace.split.train.lengths)
    count = min(count, len(candidates) - 1)
    if count < 4:
        raise MmfedError(
            ExitCode.AUDIT,
            f"{len(candidates)} users with a training history: too few for an attack to tell anything.",
            "audit a shop with more users.",
        )
    return np.sort(numpy_generator(seed, "audit", "people").choice(candidates, count, replace=False))


@dataclass
class _Watcher:
    """Keeps every released model."""

    models: list[dict[str, Tensor]] = field(default_factory=list)

    def enrolled(self, population: int, rate: float, noise_multiplier: float | None) -> None:
        """Nothing to show."""

    def validate(self, round_number: int, parameters: Mapping[str, Tensor]) -> None:
        self.models.append({name: value.clone() for name, value in parameters.items()})

    def round_done(self, record: RoundRecord) -> None:
        """Nothing to show."""
