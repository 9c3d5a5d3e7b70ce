"""``mmfed compare``: several methods, several seeds, one table on the same users."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmfed.config import Config, build_config, read_scenario
from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.result import RankingResult, combine_seeds, paired_difference
from mmfed.federated.workspace import load_workspace
from mmfed.models.baselines.base import KIND_NOTES
from mmfed.models.baselines.registry import build_baseline
from mmfed.records import RunFolder, write_json
from mmfed.simulation.assess import assess_baseline
from mmfed.simulation.run import Watcher, check_unchanged, evaluate_run, simulate

REFERENCE = "popularity"


class Published(BaseModel):
    """A figure from elsewhere, shown beside ours."""

    model_config = ConfigDict(extra="forbid")

    name: str
    source: str
    metrics: dict[str, float | str]


class Method(BaseModel):
    """One federated method: a name and what it changes in the scenario."""

    model_config = ConfigDict(extra="forbid")

    name: str
    set: dict[str, Any] = Field(default_factory=dict)


class CompareSection(BaseModel):
    """The ``[compare]`` section of a scenario."""

    model_config = ConfigDict(extra="forbid")

    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    baselines: tuple[str, ...] = ("random", "popularity", "item_knn", "ease", "bpr_mf")
    methods: tuple[Method, ...] = ()
    published: tuple[Published, ...] = ()
    results: Path | None = Field(
        default=None, description="where the table is written as Markdown, relative to the scenario"
    )


class CompareWatcher(Watcher, Protocol):
    """Who is told how a comparison goes."""

    def method(self, name: str, seed: int, number: int, total: int) -> None:
        """A method starts."""

    def follow(self, config: Config) -> None:
        """The configuration of the run that starts now; methods differ in rounds and privacy."""


@dataclass(frozen=True, eq=False)
class CompareResult:
    """A finished comparison.

    Attributes:
        folder: where ``comparison.json`` and the runs are.
        comparison: everything the table shows, as plain data.
        markdown: where the scenario wants the table, None for nowhere but the folder.
    """

    folder: Path
    comparison: Mapping[str, Any]
    markdown: Path | None


def compare(
    path: Path, overrides: Sequence[str] = (), *, resume: bool = False, watcher: CompareWatcher | None = None
) -> CompareResult:
    """Run every method of a scenario for every seed and put baselines and methods into one table.

    Finished runs are not repeated with ``resume``.

    Raises:
        MmfedError: the scenario is wrong, or a run fails; finished runs stay.
    """
    tree = read_scenario(path)
    section = _section(tree.pop("compare", {}), path)
    base = build_config(tree, overrides, where=str(path))
    folder = base.run.folder / base.run.name
    if (folder / "comparison.json").exists() and not resume:
        raise MmfedError(
            ExitCode.STORAGE,
            f"{folder}: holds a comparison already.",
            "continue or redo its table with --resume, or name the new one with --set run.name=NAME.",
        )
    total = len(section.baselines) + len(section.methods) * len(section.seeds)
    rows: list[dict[str, Any]] = []
    results: dict[str, RankingResult] = {}
    number = 0
    for name in section.baselines:
        number += 1
        _tell(watcher, name, section.seeds[0], number, total)
        results[name], kind = _baseline(base, name, section.seeds)
        rows.append({"name": name, "kind": kind, "federated": False, "privacy": None})
    for method in section.methods:
        seeds: list[RankingResult] = []
        statements: list[Mapping[str, Any]] = []
        rounds: list[int] = []
        kinds: list[str] = []
        for seed in section.seeds:
            number += 1
            _tell(watcher, method.name, seed, number, total)
            config = _method_config(tree, overrides, method, seed, folder, path)
            result = _run(config, resume=resume, watcher=watcher)
            seeds.append(result.federated.result)
            statements.append(result.results["privacy"])
            kinds.append(result.federated.kind)
            rounds.append(result.results["round"])
        results[method.name] = combine_seeds(seeds, resamples=base.evaluation.bootstrap)
        worst = max(statements, key=lambda statement: statement["epsilon"] or 0.0)
        kind = f"federated, {kinds[0]}"
        rows.append({"name": method.name, "kind": kind, "federated": True, "privacy": dict(worst), "rounds": rounds})
    comparison = _comparison(path, base, section, rows, results)
    write_json(folder / "comparison.json", comparison)
    markdown = None if section.results is None else Path(os.path.normpath(path.parent / section.results))
    return CompareResult(folder, comparison, markdown)


def _section(tree: Any, path: Path) -> CompareSection:
    try:
        section = CompareSection.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["compare", *(str(part) for part in first["loc"])])
        known = ", ".join(CompareSection.model_fields)
        raise MmfedError(ExitCode.CONFIG, f"{path}: {key}: {first['msg']}.", f"known keys: {known}.") from None
    for name in section.baselines:
        build_baseline(name)
    return section


def _method_config(
    tree: Mapping[str, Any], overrides: Sequence[str], method: Method, seed: int, folder: Path, path: Path
) -> Config:
    name = re.sub(r"[^a-z0-9]+", "-", method.name.lower()).strip("-")
    own = [f"{key}={_toml(value)}" for key, value in method.set.items()]
    place = [f"run.seed={seed}", f"run.name={name}-seed{seed}", f"run.folder={_toml(str(folder))}"]
    config = build_config(tree, [*overrides, *own, *place], where=f"{path}: method {method.name!r}")
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"baselines": ()})})


def _toml(value: Any) -> str:
    import tomli_w

    return tomli_w.dumps({"v": value}).removeprefix("v = ").strip()


def _run(config: Config, *, resume: bool, watcher: CompareWatcher | None) -> Any:
    if watcher is not None:
        watcher.follow(config)
    run = RunFolder(config.run.folder / config.run.name)
    if resume and run.results.exists():
        check_unchanged(run, config, free=("evaluation.k", "evaluation.bootstrap", "evaluation.protocol"))
        return evaluate_run(run, config, load_workspace(config))
    return simulate(config, resume=resume and run.config.exists(), watcher=watcher)


def _baseline(base: Config, name: str, seeds: Sequence[int]) -> tuple[RankingResult, str]:
    """A baseline over the seeds; those that draw nothing at random are fitted once."""
    workspace = load_workspace(base)
    drawn = name in ("random", "bpr_mf")
    results = [assess_baseline(workspace, name, seed=seed).result for seed in (seeds if drawn else seeds[:1])]
    kind = KIND_NOTES[build_baseline(name).kind]
    return combine_seeds(results, resamples=base.evaluation.bootstrap), kind


def _comparison(
    path: Path, base: Config, section: CompareSection, rows: list[dict[str, Any]], results: dict[str, RankingResult]
) -> dict[str, Any]:
    workspace = load_workspace(base)
    methods = []
    for row in rows:
        result = results[row["name"]]
        differences = {}
        if REFERENCE in results and row["name"] != REFERENCE:
            found = paired_difference(result, results[REFERENCE], resamples=base.evaluation.bootstrap)
            differences = {name: estimate.to_json() for name, estimate in found.items()}
        methods.append(row | result.to_json() | {f"difference_to_{REFERENCE}": differences})
    return {
        "scenario": path.name,
        "name": base.run.name,
        "shop": workspace.shop.name,
        "users": workspace.shop.interactions.user_count,
        "items": workspace.shop.catalogue.size,
        "interactions": len(workspace.shop.interactions),
        "split": workspace.split.description,
        "protocol": base.evaluation.protocol,
        "seeds": list(section.seeds),
        "methods": methods,
        "published": [one.model_dump() for one in section.published],
        "notes": [*workspace.shop.notes, *workspace.features.notes],
    }


def _tell(watcher: CompareWatcher | None, name: str, seed: int, number: int, total: int) -> None:
    if watcher is not None:
        watcher.method(name, seed, number, total)
