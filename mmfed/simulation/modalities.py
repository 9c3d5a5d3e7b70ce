"""``mmfed modalities``: what a model is worth when modalities are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from mmfed.config import Config, build_config
from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.protocol import ScoreFunction
from mmfed.federated.workspace import Workspace, load_workspace
from mmfed.models.base import Recommender
from mmfed.models.baselines.base import KIND_NOTES
from mmfed.models.baselines.registry import build_baseline
from mmfed.records import RunFolder, write_json
from mmfed.simulation.assess import assess
from mmfed.simulation.compare import CompareWatcher
from mmfed.simulation.run import guarantee_of, privacy_statement, private_vectors
from mmfed.simulation.scorer import RunModel, run_model
from mmfed.simulation.study import (
    StudyResult,
    check_name_is_free,
    own_run,
    ranked,
    read_study,
    results_path,
    table,
    trained,
)

FILE = "modalities.json"
REFERENCE = "popularity"
ID = "id"


class ModalitiesSection(BaseModel):
    """The ``[modalities]`` section of a scenario."""

    model_config = ConfigDict(extra="forbid")

    dropout: float | None = Field(
        default=None, gt=0, lt=1, description="also train with this training.modality_dropout, for a second table"
    )
    results: Path | None = Field(
        default=None, description="where the tables are written as Markdown, relative to the scenario"
    )


def missing_modalities(
    path: Path | None,
    overrides: Sequence[str] = (),
    *,
    dropout: float | None = None,
    resume: bool = False,
    watcher: CompareWatcher | None = None,
) -> StudyResult:
    """Train, then hide every modality in turn, and all but each.

    Args:
        dropout: also train with this modality dropout; goes before the scenario's.

    Raises:
        MmfedError: the scenario is wrong, the model reads a single modality, or a run fails.
    """
    tree, section = read_study(path, "modalities", ModalitiesSection)
    config = ranked(build_config(tree, overrides, where="configuration" if path is None else str(path)), "modalities")
    share = section.dropout if dropout is None else dropout
    folder = config.run.folder / config.run.name
    check_name_is_free(folder / FILE, resume=resume)
    runs = {_dropout_name(config): own_run(config, "model")}
    if share is not None and share != config.training.modality_dropout:
        dropped = own_run(config, "dropout", [f"training.modality_dropout={share}"])
        runs[_dropout_name(dropped)] = dropped
    workspace = load_workspace(runs[next(iter(runs))], progress=None if watcher is None else watcher.features)
    readable(workspace.new_model())
    tables = []
    guarantee = None
    for number, (name, own) in enumerate(runs.items(), start=1):
        if watcher is not None:
            watcher.method(name, own.run.seed, number, len(runs))
            watcher.follow(own)
        run = trained(own, resume=resume, watcher=watcher)
        tables += run_tables(run, own, load_workspace(own), name)
        guarantee = guarantee or guarantee_of(run, own, workspace.shop.interactions.user_count)
    if guarantee is None:
        raise RuntimeError("no run was planned")
    study = _study(config, workspace, tables, privacy_statement(config, guarantee))
    study["scenario"] = None if path is None else path.name
    write_json(folder / FILE, study)
    return StudyResult(folder, folder / FILE, study, results_path(path, section.results))


def modalities_of_run(run: RunFolder, config: Config, workspace: Workspace) -> StudyResult:
    """The same tables for a finished run; ``modalities.json`` is written into its folder.

    Raises:
        MmfedError: the run has no model, or its model reads a single modality.
    """
    ranked(config, "modalities")
    tables = run_tables(run, config, workspace, _dropout_name(config))
    guarantee = guarantee_of(run, config, workspace.shop.interactions.user_count)
    study = _study(config, workspace, tables, privacy_statement(config, guarantee))
    write_json(run.path / FILE, study)
    return StudyResult(run.path, run.path / FILE, study, None)


def run_tables(run: RunFolder, config: Config, workspace: Workspace, name: str) -> list[dict[str, Any]]:
    """Both tables of one run.

    Raises:
        MmfedError: the model reads a single modality.
    """
    learned = run_model(run, config, workspace)
    vectors = private_vectors(run, workspace, learned.model)
    names = readable(learned.model)
    history = workspace.split.before_test
    hidden: dict[str, tuple[str, ...]] = {"nothing hidden": ()}
    hidden |= {f"without {one}": (one,) for one in names}
    hidden |= {f"{one} only": tuple(other for other in names if other != one) for one in names}
    fitted = build_baseline(REFERENCE).fit(workspace.split.train, seed=config.run.seed)

    def popularity(users: np.ndarray) -> np.ndarray:
        return fitted.score(history, users)

    ks = config.evaluation.k
    columns = {f"{metric}@{k}": f"{metric}@{k}" for metric in ("recall", "ndcg") for k in ks}
    kind = f"{config.model.name} federated"
    rows = [_row(workspace, REFERENCE, KIND_NOTES["centralised"], popularity, columns)]
    timelines = workspace.timelines(history, workspace.split.test)
    rows += [
        _row(
            workspace,
            label,
            kind,
            learned.scorer(history, vectors, hidden=gone, timelines=timelines, people=workspace.people),
            columns,
        )
        for label, gone in hidden.items()
    ]
    about = "Test split, full ranking; a modality is hidden from all items when scoring, training had it."
    if learned.weight:
        about += f" Band-EASE, which reads ids, stays beside the model with weight {learned.weight:g}."
    tables = [table(f"Modalities hidden at scoring ({name})", columns, rows, about)]
    return [*tables, *_absent(workspace, learned, vectors, popularity, columns, name)]


def readable(model: Recommender) -> tuple[str, ...]:
    """The modalities a model reads, ids among them.

    Raises:
        MmfedError: there is one only, and nothing would be left without it.
    """
    names = (*model.features.names, ID)[: model.modality_columns]
    if len(names) < 2:
        raise MmfedError(
            ExitCode.CONFIG,
            f"the model reads {names[0] if names else 'nothing'} only: without it nothing is left to measure.",
            "name several features.modalities, or set model.item_ids = true.",
        )
    return names


def _absent(
    workspace: Workspace,
    learned: RunModel,
    vectors: np.ndarray | None,
    popularity: ScoreFunction,
    columns: Mapping[str, str],
    name: str,
) -> list[dict[str, Any]]:
    """Targets that lack a modality in the data, beside those that have it; no table where nothing lacks anything."""
    test = workspace.split.test
    history = workspace.split.before_test
    timelines = workspace.timelines(history, test)
    score = learned.scorer(history, vectors, timelines=timelines, people=workspace.people)
    rows = []
    for modality, one in workspace.features.modalities.items():
        for has, word in ((False, "lack"), (True, "have")):
            items = one.present == has
            kept = test.keep_rows(items[test.items])
            if one.present.all() or not len(kept):
                continue
            part = replace(workspace, split=replace(workspace.split, test=kept))
            label = f"{int(items.sum()):,} items that {word} {modality}, {len(kept):,} test interactions"
            rows.append(_row(part, label, f"{learned.config.model.name} federated", score, columns))
            rows.append(_row(part, label, REFERENCE, popularity, columns))
    if not rows:
        return []
    about = "Test interactions with the items of a row, ranked in the whole catalogue."
    return [table(f"Items that lack a modality in the data ({name})", columns, rows, about)]


def _row(
    workspace: Workspace, name: str, kind: str, score: ScoreFunction, columns: Mapping[str, str]
) -> dict[str, Any]:
    found = assess(workspace, score).metrics
    return {"name": name, "kind": kind, "metrics": {metric: found[metric].to_json() for metric in columns}}


def _study(
    config: Config, workspace: Workspace, tables: list[dict[str, Any]], promise: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "name": config.run.name,
        "shop": workspace.shop.name,
        "users": workspace.shop.interactions.user_count,
        "items": workspace.shop.catalogue.size,
        "split": workspace.split.description,
        "seed": config.run.seed,
        "privacy": promise,
        "tables": tables,
        "notes": [*workspace.notes],
    }


def _dropout_name(config: Config) -> str:
    share = config.training.modality_dropout
    return f"modality dropout {share:g}" if share else "no modality dropout"
