"""What a run's model thinks of every item for one person: of the shop, or anybody whose history is given."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmfed.config import Config
from mmfed.data.own_content import NO_ITEM, own_content
from mmfed.data.schema import group_by_user
from mmfed.encoders.own import OwnFeatures, own_features
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.workspace import NOW, Workspace
from mmfed.models.band_ease import standardised
from mmfed.records import RunFolder
from mmfed.simulation.people import said
from mmfed.simulation.run import private_vectors
from mmfed.simulation.scorer import run_model
from mmfed.types import FloatArray, IntArray

# As one event among many a query would drown in a long history: the list for the query alone counts this much more.
QUERY_WEIGHT = 2.0


@dataclass(frozen=True, eq=False)
class PersonScores:
    """A model's scores for one person.

    Attributes:
        user: None for a history given by hand.
        history: items the scores are based on, oldest first.
        scores: [items]; -inf for the items of the history.
        round: of the model.
        query: what the person looks for, in words; None without.
    """

    user: str | None
    history: IntArray
    scores: FloatArray
    round: int
    query: str | None = None


def scores_for_user(
    run: RunFolder, config: Config, workspace: Workspace, user: str, *, query: str | None = None
) -> PersonScores:
    """From everything a person of the shop did, held-out interactions included.

    Args:
        query: the person's search words: the scores answer them, re-ranked by the history they are the last event of.

    Raises:
        MmfedError: unknown user (the nearest ids are in the fix), no checkpoint.
    """
    interactions = workspace.shop.interactions
    ids = [str(one) for one in interactions.user_ids]
    if user not in ids:
        raise MmfedError(ExitCode.DATA, f"user {user!r}: not in the shop.", _nearest(user, ids, "user"))
    row = ids.index(user)
    rows = interactions.rows(row)
    return _scores(run, config, workspace, interactions.items[rows], user=user, row=row, query=query)


def scores_for_history(
    run: RunFolder,
    config: Config,
    workspace: Workspace,
    item_ids: Sequence[str],
    *,
    query: str | None = None,
    about: Mapping[str, str] | None = None,
) -> PersonScores:
    """For somebody who touched these items, oldest first; nobody training needs to know.

    Args:
        query: search words, as in ``scores_for_user``; with them the history may be empty.
        about: what the person says about the own person, by attribute of ``data.people``; the history may be empty.

    Raises:
        MmfedError: an unknown item (the nearest ids are in the fix), an empty history, an answer that the run does not
            know, no checkpoint.
    """
    known = {item: index for index, item in enumerate(workspace.shop.catalogue.item_ids)}
    wanted = [item.strip() for item in item_ids if item.strip()]
    if not wanted and query is None and not about:
        raise MmfedError(ExitCode.CONFIG, "--history is empty.", "name at least one item, e.g. --history a,b,c.")
    for item in wanted:
        if item not in known:
            near = _by_title(workspace, item) or _nearest(item, list(known), "item")
            raise MmfedError(ExitCode.DATA, f"item {item!r}: not in the catalogue.", near)
    history = np.array([known[item] for item in wanted], dtype=np.int64)
    people = said(config.data.people, about) if about else None
    return _scores(run, config, workspace, history, query=query, people=people)


def _scores(
    run: RunFolder,
    config: Config,
    workspace: Workspace,
    history: IntArray,
    *,
    user: str | None = None,
    row: int | None = None,
    query: str | None = None,
    people: IntArray | None = None,
) -> PersonScores:
    catalogue = workspace.shop.catalogue
    learned = run_model(run, config, workspace)
    vectors: FloatArray | None = private_vectors(run, workspace, learned.model)
    if vectors is not None:
        vectors = (
            vectors[[row]] if row is not None else np.zeros((1, learned.model.private_dimensions), dtype=np.float32)
        )
    events, interactions = len(history), workspace.shop.interactions
    one = group_by_user(
        user_ids=[user or "somebody"],
        users=np.zeros(events, dtype=np.int64),
        items=history,
        times=np.arange(events) if row is None else interactions.times[interactions.rows(row)],
        actions=np.zeros(events, dtype=np.int64),
        values=np.full(events, np.nan) if row is None else interactions.values[interactions.rows(row)],
        item_count=catalogue.size,
    )
    person = np.zeros(1, dtype=np.int64)
    own = None if row is None or workspace.own is None else workspace.own.of_user(row)
    asked = None if query is None else query_features(workspace, query)
    if asked is not None:
        own = asked if own is None else own.followed_by(asked)
    if workspace.people is not None and row is not None:
        people = workspace.people[[row]]
    scores = learned.scorer(one, vectors, timelines=workspace.with_own(one, own), people=people)(person)
    if asked is not None and events:
        nothing = one.keep_rows(np.zeros(events, dtype=bool))
        asked_alone = workspace.with_own(nothing, asked)
        alone = learned.scorer(nothing, vectors, timelines=asked_alone, people=people)(person)
        scores = standardised(scores) + QUERY_WEIGHT * standardised(alone)
    scores[0, history] = -np.inf
    return PersonScores(user, history, scores[0], learned.round, query)


def query_features(workspace: Workspace, query: str) -> OwnFeatures:
    """Search words as own content of one person, right now; encoded and kept nowhere.

    Raises:
        MmfedError: there are no words, or the run's model reads no text in a history.
    """
    config = workspace.config
    if not query.strip():
        raise MmfedError(ExitCode.CONFIG, "--query is empty.", 'say what is looked for, e.g. --query "running shoes".')
    if config.training.objective == "mse" or "text" not in workspace.new_model().history_modalities():
        raise MmfedError(
            ExitCode.CONFIG,
            f"--query: this run's model ({config.model.name}) "
            + ("predicts ratings." if config.training.objective == "mse" else "reads no text in a history."),
            "take a run that ranks and has text among features.modalities, on a shop with titles.",
        )
    content = own_content(
        user_ids=["somebody"],
        users=np.zeros(1, dtype=np.int64),
        times=np.array([NOW]),
        items=np.array([NO_ITEM]),
        contents={"text": [query]},
    )
    return own_features(content, workspace.shop.catalogue, config.features, workspace.features)


def _nearest(name: str, known: Sequence[str], what: str) -> str:
    number = re.search(r"\d+$", name)
    padded = [one for one in known if number and re.fullmatch(rf".*?0*{int(number[0])}", one)][:3]
    near = difflib.get_close_matches(name, padded or known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"give an id such as {known[0]} ({what} ids are exact)."


def _by_title(workspace: Workspace, words: str) -> str | None:
    """People type titles; the ids of items so titled."""
    catalogue = workspace.shop.catalogue
    named = [index for index, title in enumerate(catalogue.titles) if title and words.casefold() in title.casefold()]
    shown = ", ".join(f"{catalogue.item_ids[index]} ({catalogue.titles[index]})" for index in named[:3])
    return f"use an id: {shown}." if named else None
