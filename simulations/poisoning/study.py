"""One run under attack: how many honest people are shown the target, and what their lists are worth."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfed.config import Config, build_config
from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.ranking import quick_metrics
from mmfed.federated.coordinator import coordinate
from mmfed.federated.participant import client_app
from mmfed.federated.workspace import Workspace, load_workspace
from mmfed.records import RunFolder, read_lines
from mmfed.rng import numpy_generator
from mmfed.scenario_file import read_scenario
from mmfed.simulation.run import guarantee_of
from mmfed.simulation.scorer import run_model
from simulations.poisoning.attacks import KINDS, Attack
from simulations.poisoning.hostile import HostileGrid, hostile_devices

K = 10
UNPOPULAR = (3, 10)  # training users of an item that may become the target


@dataclass(frozen=True)
class Method:
    """A way to train, a privacy mode with a defence, and what is done to it.

    Attributes:
        seeds: a seed draws the target, the fake histories and the run.
    """

    name: str
    config: Config
    attacks: tuple[Attack, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What is to be run."""

    name: str
    title: str
    methods: tuple[Method, ...]


@dataclass(frozen=True)
class Outcome:
    """One run.

    Attributes:
        devices: hostile ones.
        shown: share of honest people without the target in their history whose top ``K`` holds it.
        rank: median rank of the target among these people's items, 1 is the first.
        recall: recall@K of honest people on their test events.
        refused: replies that the coordinator refused, over all rounds.
        alarm: first round in which the exposure alarm named the target; None: never.
        false_alarms: other items that it named.
        epsilon: charged; None without privacy.
    """

    method: str
    seed: int
    attack: Attack | None
    target: str
    devices: int
    shown: float
    rank: float
    recall: float
    refused: int
    alarm: int | None
    false_alarms: int
    epsilon: float | None


def read_plan(path: Path, overrides: Sequence[str] = ()) -> Plan:
    """A scenario file with a [poisoning] section.

    The section has ``title``, ``attacks``, ``shares``, ``seeds``, ``first_round`` and ``methods`` of ``name`` and
    ``set``, each of which may have attacks, shares and seeds of its own.

    Raises:
        MmfedError: the section is missing or names an unknown attack.
    """
    tree = read_scenario(path)
    section: dict[str, Any] = tree.pop("poisoning", {})
    methods = []
    for one in section.get("methods", []):
        own = {**section, **one}
        unknown = [str(kind) for kind in own.get("attacks", []) if kind not in KINDS]
        if unknown or not own.get("attacks"):
            raise MmfedError(
                ExitCode.CONFIG,
                f"{path}: {one.get('name')!r} has no attack, or an unknown one ({', '.join(unknown) or 'none given'}).",
                f"choose of {', '.join(KINDS)}.",
            )
        given = [f"{key}={_toml(value)}" for key, value in one["set"].items()]
        config = build_config(tree, [*given, *overrides], where=f"{path}: {one['name']}")
        first = int(section.get("first_round", 1))
        attacks = tuple(Attack(kind, float(share), first) for kind in own["attacks"] for share in own["shares"])
        methods.append(Method(one["name"], config, attacks, tuple(own["seeds"])))
    if not methods:
        raise MmfedError(ExitCode.CONFIG, f"{path}: no [[poisoning.methods]].", "name what is to be attacked.")
    return Plan(tree["run"]["name"], section["title"], tuple(methods))


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def target_of(workspace: Workspace, seed: int) -> int:
    """An item that few people have, drawn by the seed.

    Raises:
        MmfedError: no item of the shop is that unpopular.
    """
    low, high = UNPOPULAR
    found = np.flatnonzero((workspace.train_users >= low) & (workspace.train_users <= high))
    if not len(found):
        raise MmfedError(
            ExitCode.DATA, f"no item has {low} to {high} training users to be pushed.", "take a larger shop."
        )
    return int(numpy_generator(seed, "target").choice(found))


def run_one(method: Method, attack: Attack | None, seed: int) -> Outcome:
    """Train under attack and look at honest people's lists."""
    run_section = method.config.run.model_copy(update={"seed": seed, "name": "poisoned"})
    config = method.config.model_copy(update={"run": run_section})
    workspace = load_workspace(config)
    target = target_of(workspace, seed)
    with tempfile.TemporaryDirectory() as folder:
        run, state = RunFolder(Path(folder) / "run"), Path(folder) / "hostile"
        hostile = []
        if attack is not None:
            hostile = hostile_devices(attack, workspace, target, seed=seed, state_folder=state)
        coordinate(HostileGrid(client_app(), hostile, state_folder=run.devices), config, run, None, resume=False)
        shown, rank, recall = honest_lists(run, config, workspace, target)
        rounds = read_lines(run.metrics)
        epsilon = None
        if config.privacy.mode != "none":
            epsilon = guarantee_of(run, config, workspace.shop.interactions.user_count).epsilon
    item = workspace.shop.catalogue.item_ids[target]
    named = [(int(one["round"]), str(alarm["item"])) for one in rounds for alarm in one.get("alarms", ())]
    return Outcome(
        method=method.name,
        seed=seed,
        attack=attack,
        target=item,
        devices=len(hostile),
        shown=shown,
        rank=rank,
        recall=recall,
        refused=sum(int(one["refused_nodes"]) for one in rounds),
        alarm=min((number for number, name in named if name == item), default=None),
        false_alarms=len({name for _, name in named if name != item}),
        epsilon=epsilon,
    )


def honest_lists(run: RunFolder, config: Config, workspace: Workspace, target: int) -> tuple[float, float, float]:
    """Share shown the target, its median rank, and recall@K, over honest people."""
    learned, before = run_model(run, config, workspace), workspace.before_test
    scorer = learned.scorer(before, timelines=workspace.timelines(before, workspace.split.test))
    items = workspace.shop.catalogue.size
    holds = np.zeros(before.user_count, dtype=bool)
    holds[before.user_of_row()[before.items == target]] = True
    people = np.flatnonzero((before.lengths > 0) & ~holds)
    ranks = np.concatenate([_ranks(scorer(block), before, block, target) for block in np.array_split(people, 8)])
    metrics = quick_metrics(scorer, before, workspace.split.test, (K,), item_count=items)
    return float((ranks <= K).mean()), float(np.median(ranks)), metrics[f"recall@{K}"]


def _ranks(scores: np.ndarray, before: Any, users: np.ndarray, target: int) -> np.ndarray:
    """[users] rank of the target among the items a user does not have; ties count against it."""
    scores = np.array(scores, dtype=np.float64)
    for row, user in enumerate(users):
        scores[row, before.items[before.rows(int(user))]] = -np.inf
    own = scores[:, [target]]
    return (scores >= own).sum(axis=1)


def run_plan(plan: Plan, told: Callable[[Outcome], object] | None = None) -> list[Outcome]:
    """All runs, methods first without attack."""
    outcomes = []
    for method in plan.methods:
        for attack in (None, *method.attacks):
            for seed in method.seeds:
                outcomes.append(run_one(method, attack, seed))
                if told is not None:
                    told(outcomes[-1])
    return outcomes
