"""``mmfed compare``: several methods, several seeds, one table on the same users."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmfed.config import Config, build_config
from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.result import RankingResult, combine_seeds, paired_difference
from mmfed.federated.workspace import load_workspace
from mmfed.models.baselines.base import KIND_NOTES
from mmfed.models.baselines.registry import build_baseline
from mmfed.records import RunFolder, write_json
from mmfed.scenario_file import read_scenario
from mmfed.simulation.assess import assess_baseline, assess_rating_baselines
from mmfed.simulation.private_als import AlsMethod, als_row
from mmfed.simulation.run import RunResult, Watcher, check_unchanged, evaluate_run, simulate

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
    private_als: tuple[AlsMethod, ...] = ()
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
    table = _Table()
    for number, name in enumerate(section.baselines, start=1):
        _tell(watcher, name, section.seeds[0], number, total)
        result, kind = _baseline(base, name, section.seeds)
        table.add({"name": name, "kind": kind, "federated": False, "privacy": None}, result)
    for place, method in enumerate(section.methods):
        configs = [_method_config(tree, overrides, method, seed, folder, path) for seed in section.seeds]
        before = len(section.baselines) + place * len(configs)
        runs = []
        for number, config in enumerate(configs, start=before + 1):
            _tell(watcher, method.name, config.run.seed, number, total)
            runs.append(_run(config, resume=resume, watcher=watcher))
        combined = combine_seeds([run.federated.result for run in runs], resamples=base.evaluation.bootstrap)
        table.add(_row(method.name, configs[0], runs), combined)
    for method in section.private_als:
        table.add(*als_row(load_workspace(base), method, section.seeds))
    if any("mse" in result.metrics for result in table.results.values()):
        for baseline in assess_rating_baselines(load_workspace(base)):
            row = {"name": baseline.name, "kind": baseline.kind, "federated": False, "privacy": None}
            table.add(row, baseline.result)
    comparison = _comparison(path, base, section, table)
    write_json(folder / "comparison.json", comparison)
    markdown = None if section.results is None else Path(os.path.normpath(path.parent / section.results))
    return CompareResult(folder, comparison, markdown)


@dataclass(eq=False)
class _Table:
    """Rows in order, and the result of each by name."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, RankingResult] = field(default_factory=dict)

    def add(self, row: dict[str, Any], result: RankingResult) -> None:
        self.rows.append(row)
        self.results[row["name"]] = result


def _row(name: str, config: Config, runs: Sequence[RunResult]) -> dict[str, Any]:
    """A method's row, with the weakest promise of its seeds."""
    place = "centralised" if config.federation.backend == "centralised" else "federated"
    statements = [run.results["privacy"] for run in runs]
    worst = max(statements, key=lambda statement: statement["epsilon"] or 0.0)
    return {
        "name": name,
        "kind": f"{place}, {runs[0].federated.kind}",
        "federated": place == "federated",
        "privacy": dict(worst) if place == "federated" else None,
        "rounds": [run.results["round"] for run in runs],
        "ensemble": [run.results["ensemble"] for run in runs],
    }


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


def _run(config: Config, *, resume: bool, watcher: CompareWatcher | None) -> RunResult:
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
    baseline = build_baseline(name)
    fitted = seeds if baseline.drawn else seeds[:1]
    results = [assess_baseline(workspace, name, seed=seed).result for seed in fitted]
    kind = KIND_NOTES[baseline.kind]
    return combine_seeds(results, resamples=base.evaluation.bootstrap), kind


def _comparison(path: Path, base: Config, section: CompareSection, table: _Table) -> dict[str, Any]:
    workspace = load_workspace(base)
    methods, ratings = [], []
    for row in table.rows:
        result = table.results[row["name"]]
        if "mse" in result.metrics:
            ratings.append(row | result.to_json())
            continue
        differences = {}
        if REFERENCE in table.results and row["name"] != REFERENCE:
            found = paired_difference(result, table.results[REFERENCE], resamples=base.evaluation.bootstrap)
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
        "ratings": ratings,
        "published": [one.model_dump() for one in section.published],
        "notes": [*workspace.notes],
    }


def _tell(watcher: CompareWatcher | None, name: str, seed: int, number: int, total: int) -> None:
    if watcher is not None:
        watcher.method(name, seed, number, total)
