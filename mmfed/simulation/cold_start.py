"""``mmfed cold-start``: items and people that came after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from mmfed.config import Config, build_config
from mmfed.data.schema import Interactions
from mmfed.data.split import HeldOut, held_out
from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.intervals import bootstrap_estimates
from mmfed.federated.workspace import Workspace, load_workspace
from mmfed.models.cold_bias import predicted_from_content
from mmfed.models.noised_ease import NoisedEase
from mmfed.models.scoring import ModelScorer
from mmfed.records import RunFolder, write_json
from mmfed.rng import derive
from mmfed.simulation.assess import content_matrix
from mmfed.simulation.cold_baselines import nearest_content, random_scores, same_for_all
from mmfed.simulation.cold_events import (
    Events,
    EventScores,
    cold_item_events,
    event_ranks,
    last_item_events,
    user_means,
)
from mmfed.simulation.compare import CompareWatcher
from mmfed.simulation.run import guarantee_of, privacy_statement, private_vectors
from mmfed.simulation.scorer import RunModel, RunScorer, run_model
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
from mmfed.types import BoolArray, FloatArray, IntArray

FILE = "cold_start.json"
IDS_ONLY = ("features.modalities=[]", "training.modality_dropout=0", "model.item_ids=true")
SHARE = 0.1  # held out of items and users where the configuration holds out nothing


class ColdStartSection(BaseModel):
    """The ``[cold_start]`` section of a scenario."""

    model_config = ConfigDict(extra="forbid")

    first: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(1, 3, 5, 10, 20), description="new users: how many first interactions are known"
    )
    ids_only: bool = Field(default=True, description="also train the same model without any content")
    well_known: int = Field(
        default=0, ge=0, description="also rank among the cold items with this many interactions alone; 0: do not"
    )
    results: Path | None = Field(
        default=None, description="where the tables are written as Markdown, relative to the scenario"
    )


def cold_start(
    path: Path | None,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    watcher: CompareWatcher | None = None,
) -> StudyResult:
    """Train without the held-out items and users, then recommend them and to them.

    Raises:
        MmfedError: the scenario is wrong, nothing is held out, nobody touches what is, or a run fails.
    """
    tree, section = read_study(path, "cold_start", ColdStartSection)
    given = build_config(tree, overrides, where="configuration" if path is None else str(path))
    config = ranked(_holding_out(given), "cold-start")
    folder = config.run.folder / config.run.name
    check_name_is_free(folder / FILE, resume=resume)
    runs = {"model": own_run(config, "model")}
    if section.ids_only and config.features.modalities:
        runs["ids-only"] = own_run(config, "ids-only", IDS_ONLY)
    workspace = load_workspace(runs["model"], progress=None if watcher is None else watcher.features)
    held = _checked(workspace, config)
    # The run without content goes first: the features of the other then stay loaded.
    methods: dict[str, EventScores] = {}
    finished: dict[str, RunFolder] = {}
    for number, (name, own) in enumerate(reversed(runs.items()), start=1):
        if watcher is not None:
            watcher.method(name, own.run.seed, number, len(runs))
            watcher.follow(own)
        finished[name] = trained(own, resume=resume, watcher=watcher)
        methods[name] = _model_scores(finished[name], own, held)
    model = f"{config.model.name} federated"
    guarantee = guarantee_of(finished["model"], runs["model"], workspace.shop.interactions.user_count)
    workspace = load_workspace(runs["model"])
    study = {
        "scenario": None if path is None else path.name,
        "name": config.run.name,
        "shop": workspace.shop.name,
        "users": workspace.shop.interactions.user_count,
        "items": workspace.shop.catalogue.size,
        "split": workspace.split.description,
        "fold": config.data.split.fold,
        "held_out": {"items": int(held.items.sum()), "users": int(held.users.sum())},
        "seed": config.run.seed,
        "privacy": privacy_statement(runs["model"], guarantee),
        "tables": [
            *_cold_items(workspace, held, methods, model, section.well_known),
            *_new_users(workspace, held, methods["model"], model, section),
        ],
        "notes": [*workspace.notes, *_notes(config)],
    }
    write_json(folder / FILE, study)
    return StudyResult(folder, folder / FILE, study, results_path(path, section.results))


def _notes(config: Config) -> list[str]:
    if config.one_shot.enabled and config.privacy.mode == "none":
        return ["band-EASE knows no cold item and is left out of these scores"]
    return []


def _holding_out(config: Config) -> Config:
    """The configuration, with a tenth of items and users held out where it says nothing.

    Events are scored from interactions alone, so nobody's own content is trained on.
    """
    chosen = ["data.own_content=false"]
    if not (config.data.split.cold_items or config.data.split.new_users):
        chosen += [f"data.split.{name}={SHARE}" for name in ("cold_items", "new_users")]
    return build_config(config.model_dump(mode="json"), chosen)


def _checked(workspace: Workspace, config: Config) -> HeldOut:
    """What is held out; before training, not after."""
    held = held_out(workspace.shop, config.data.split)
    cold = held.items[workspace.shop.interactions.items]
    if not (held.items.any() and cold.any()) and not held.users.any():
        raise MmfedError(
            ExitCode.DATA,
            f"{workspace.shop.name}: no user and no item that anybody touched is held out.",
            "raise data.split.cold_items or data.split.new_users, or take another data.split.fold.",
        )
    return held


def _model_scores(run: RunFolder, config: Config, held: HeldOut) -> EventScores:
    """The model of a run as scores of events; with content, the ids of cold items are missing to it."""
    workspace = load_workspace(config)
    learned = run_model(run, config, workspace)
    content = content_matrix(workspace)
    bias = None if content is None else _cold_bias(learned, content, held.items)
    beside = None
    if isinstance(learned.beside, NoisedEase) and learned.weight and content is not None:
        beside = learned.beside.without_counts_of(held.items, content)
    vectors = private_vectors(run, workspace, learned.model)

    def score(history: Interactions, users: IntArray) -> FloatArray:
        scorer = ModelScorer(
            learned.model,
            history,
            user_vectors=None if vectors is None else vectors[users],
            people=None if workspace.people is None else workspace.people[users],
            rating_range=config.training.rating_range,
            # Without content nothing would be left of a cold item: its untrained id is what such a model has.
            cold=None if content is None else held.items,
            bias=bias,
        )
        return RunScorer(scorer, beside, history, learned.weight)(np.arange(len(users)))

    return score


def _cold_bias(learned: RunModel, content: FloatArray, cold: BoolArray) -> FloatArray:
    with torch.inference_mode():
        own = learned.model.item_tables().bias.double().numpy()
    return predicted_from_content(own, content, cold)


def _cold_items(
    workspace: Workspace, held: HeldOut, methods: Mapping[str, EventScores], model: str, well_known: int
) -> list[dict[str, Any]]:
    """Cold items among cold items, and in the whole catalogue."""
    interactions = workspace.shop.interactions
    events = cold_item_events(interactions, held.items, np.flatnonzero(~held.users))
    if not len(events):
        return []
    everything = np.ones_like(held.items)
    lively = held.items & (np.bincount(interactions.items, minlength=len(held.items)) >= well_known)
    ks = workspace.config.evaluation.k
    rows = []
    for one in _cold_methods(workspace, held, methods, model):
        places = {
            "cold_start_recall_among_cold": event_ranks(events, one.score, held.items),
            "cold_start_recall": event_ranks(events, one.score, everything),
        }
        if well_known:
            ranks = event_ranks(events, one.score, lively).astype(np.float64)
            places["cold_start_recall_among_well_known"] = np.where(lively[events.items], ranks, np.nan)
        hits = {
            f"{name}@{k}": np.where(np.isnan(ranks), np.nan, ranks <= k) for name, ranks in places.items() for k in ks
        }
        rows.append(_row(workspace, one.name, one.kind, events.users, hits))
    k, longest = (10 if 10 in ks else min(ks)), max(ks)
    columns = {f"cold_start_recall_among_cold@{k}": f"recall@{k}\namong cold items"}
    if well_known:
        among = f"recall@{k}\namong the {int(lively.sum())} cold items\nwith {well_known} interactions or more"
        columns |= {f"cold_start_recall_among_well_known@{k}": among}
    columns |= {f"cold_start_recall@{n}": f"recall@{n}\nwhole catalogue" for n in sorted({k, longest})}
    touched = len(np.unique(events.items))
    about = (
        f"{len(events):,} first touches of {touched} of {int(held.items.sum())} cold items by "
        f"{len(np.unique(events.users)):,} users, each told from the user's warm interactions before it; what the user "
        "touched before is off the list. Mean per user, then over users."
    )
    return [table("New items", columns, rows, about)]


@dataclass(frozen=True, eq=False)
class _Method:
    """A row: name, what it sees, and its scores."""

    name: str
    kind: str
    score: EventScores


def _cold_methods(workspace: Workspace, held: HeldOut, methods: Mapping[str, EventScores], model: str) -> list[_Method]:
    content = content_matrix(workspace)
    key = derive(workspace.config.run.seed, "baseline", "random")
    found = [_Method("random", "sees no data", lambda _, users: random_scores(key, users, len(held.items)))]
    if content is not None:
        counts = np.bincount(workspace.split.train.items, minlength=len(held.items))
        popular = predicted_from_content(np.log1p(counts), content, held.items)
        found += [
            _Method(
                "popularity from content", "centralised, no privacy", lambda _, users: same_for_all(popular, users)
            ),
            _Method(
                "nearest content", "no training, on the device", lambda history, _: nearest_content(content, history)
            ),
        ]
    if "ids-only" in methods:
        found.append(_Method(f"{model}, ids only", "ids of cold items untrained", methods["ids-only"]))
    return [*found, _Method(model, "content of cold items, no ids", methods["model"])]


def _new_users(
    workspace: Workspace, held: HeldOut, score: EventScores, model: str, section: ColdStartSection
) -> list[dict[str, Any]]:
    """The last item of new users from their first interactions, beside warm users."""
    new = np.flatnonzero(held.users)
    interactions = workspace.shop.interactions
    warm = interactions.keep_rows(~held.items[interactions.items])
    everything = last_item_events(warm, new)
    if not len(everything):
        return []
    counts = np.bincount(workspace.split.train.items, minlength=len(held.items)).astype(np.float64)
    popularity: EventScores = lambda _, users: same_for_all(counts, users)  # noqa: E731
    shown = [(f"new users, first {n}", last_item_events(warm, new, n), score) for n in section.first]
    shown += [
        ("new users, all before the last", everything, score),
        ("new users, popularity", everything, popularity),
    ]
    if len(known := _warm_users(workspace)):
        shown += [("warm users", known, score), ("warm users, popularity", known, popularity)]
    ks, rows = workspace.config.evaluation.k, []
    for name, events, scores in shown:
        ranks = event_ranks(events, scores, ~held.items)
        hits = {f"recall@{k}": ranks <= k for k in ks}
        hits |= {f"ndcg@{k}": np.where(ranks <= k, 1 / np.log2(1.0 + ranks), 0.0) for k in ks}
        kind = "popularity" if scores is popularity else model
        rows.append(_row(workspace, name, kind, events.users, hits))
    columns = {f"{name}@{k}": f"{name}@{k}" for name in ("recall", "ndcg") for k in ks}
    about = (
        f"{len(everything):,} users that training never met; their last item is told from their first interactions "
        "without any training round. A shorter history is taken whole; everything before the last item is off the list."
    )
    return [table("New users", columns, rows, about)]


def _warm_users(workspace: Workspace) -> Events:
    """The last test item of users in training, told from train and validation."""
    history, test = workspace.split.before_test, workspace.split.test
    users = np.flatnonzero((test.lengths > 0) & (history.lengths > 0))
    return Events(
        users=users,
        items=test.items[test.indptr[users + 1] - 1].astype(np.int64),
        source=history,
        history=history.lengths[users],
        touched=history,
        known=history.lengths[users],
    )


def _row(
    workspace: Workspace, name: str, kind: str, users: IntArray, values: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    section = workspace.config
    found = bootstrap_estimates(
        {metric: user_means(one.astype(np.float64), users) for metric, one in values.items()},
        resamples=section.evaluation.bootstrap,
        seed=section.run.seed,
    )
    return {"name": name, "kind": kind, "metrics": {metric: one.to_json() for metric, one in found.items()}}
