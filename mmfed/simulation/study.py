"""What evaluation commands that train several runs share: their scenario section, their runs, their tables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mmfed.config import Config, build_config
from mmfed.errors import ExitCode, MmfedError
from mmfed.records import RunFolder
from mmfed.scenario_file import read_scenario
from mmfed.simulation.run import Watcher, check_unchanged, simulate

Section = TypeVar("Section", bound=BaseModel)
SECTIONS = ("compare", "cold_start", "modalities")  # of a scenario that are no part of a run's configuration


@dataclass(frozen=True, eq=False)
class StudyResult:
    """Finished tables.

    Attributes:
        folder: where the JSON file and the runs are.
        file: the JSON file.
        study: everything the tables show, as plain data; ``study["tables"]`` are ``table`` trees.
        markdown: where the scenario wants the tables as Markdown; None for nowhere.
    """

    folder: Path
    file: Path
    study: Mapping[str, Any]
    markdown: Path | None


def table(title: str, metrics: Mapping[str, str], rows: Sequence[Mapping[str, Any]], about: str) -> dict[str, Any]:
    """A table as plain data.

    Args:
        metrics: column title by metric name, in order.
        rows: ``name``, ``kind`` (what the method sees) and ``metrics``, name to ``Estimate.to_json``.
        about: one sentence below it: who is measured, against what.
    """
    return {"title": title, "columns": dict(metrics), "rows": [dict(row) for row in rows], "about": about}


def read_study(path: Path | None, name: str, kind: type[Section]) -> tuple[dict[str, Any], Section]:
    """A scenario's run configuration as a tree, and the section of a study in it.

    Raises:
        MmfedError: the file cannot be read, or the section has an unknown key or a wrong value.
    """
    tree = {} if path is None else read_scenario(path)
    found = tree.get(name, {})
    for section in SECTIONS:
        tree.pop(section, None)
    try:
        return tree, kind.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([name, *(str(part) for part in first["loc"])])
        known = ", ".join(kind.model_fields)
        raise MmfedError(ExitCode.CONFIG, f"{path}: {key}: {first['msg']}.", f"known keys: {known}.") from None


def results_path(scenario: Path | None, results: Path | None) -> Path | None:
    """Where the Markdown goes: relative to the scenario; None for nowhere."""
    return None if scenario is None or results is None else Path(os.path.normpath(scenario.parent / results))


def check_name_is_free(file: Path, *, resume: bool) -> None:
    """Refuse to write over an earlier study.

    Raises:
        MmfedError: there is one and it is not to be continued.
    """
    if file.exists() and not resume:
        raise MmfedError(
            ExitCode.STORAGE,
            f"{file.parent}: holds {file.name} already.",
            "continue or redo its tables with --resume, or name the new one with --set run.name=NAME.",
        )


def ranked(config: Config, command: str) -> Config:
    """The configuration, if its model ranks.

    Raises:
        MmfedError: it predicts ratings.
    """
    if config.training.objective == "mse":
        raise MmfedError(
            ExitCode.CONFIG,
            f"training.objective = 'mse' predicts ratings, and {command} measures rankings.",
            "take a ranking objective, e.g. --set training.objective=softmax.",
        )
    return config


def own_run(config: Config, name: str, changes: Sequence[str] = ()) -> Config:
    """The configuration of one of a study's runs: in the study's folder, without baselines.

    Raises:
        MmfedError: a change is not possible.
    """
    folder = config.run.folder / config.run.name
    tree = config.model_dump(mode="json")
    tree["run"] |= {"folder": str(folder), "name": name}
    tree["evaluation"]["baselines"] = []
    return build_config(tree, changes, where=f"run {name!r}")


def trained(config: Config, *, resume: bool, watcher: Watcher | None) -> RunFolder:
    """The folder of a finished run; what is finished is not trained again with ``resume``.

    Raises:
        MmfedError: training fails, or the folder holds a run of another configuration.
    """
    run = RunFolder(config.run.folder / config.run.name)
    if resume and run.results.exists():
        check_unchanged(run, config, free=("evaluation.k", "evaluation.bootstrap"))
        return run
    return simulate(config, resume=resume and run.config.exists(), watcher=watcher).run
