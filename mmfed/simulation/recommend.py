"""Lists from a run's model: for a person of the shop, or for anybody whose history is given."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmfed.config import Config
from mmfed.data.schema import Categorical, Tags, group_by_user
from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.protocol import tie_keys
from mmfed.evaluation.ranking import top_k
from mmfed.federated.workspace import Workspace
from mmfed.records import RunFolder
from mmfed.simulation.run import private_vectors
from mmfed.simulation.scorer import run_model
from mmfed.types import FloatArray, IntArray


@dataclass(frozen=True)
class Item:
    """An item as a person sees it.

    Attributes:
        category, price, store: None where the shop does not say.
        score: of the model; None in a history.
    """

    item: str
    title: str
    category: str | None
    price: float | None
    store: str | None
    score: float | None = None


@dataclass(frozen=True)
class Recommendations:
    """A list for one person.

    Attributes:
        user: None for a history given by hand.
        history: what the list is based on, oldest first; none of it is in the list.
        items: best first; shorter than asked when fewer items are left.
        round: of the model.
    """

    user: str | None
    history: tuple[Item, ...]
    items: tuple[Item, ...]
    round: int


def recommend_for_user(run: RunFolder, config: Config, workspace: Workspace, user: str, *, k: int) -> Recommendations:
    """The k best items for a person of the shop, from everything the person did, held-out interactions included.

    Raises:
        MmfedError: unknown user (the nearest ids are in the fix), k out of range, no checkpoint.
    """
    interactions = workspace.shop.interactions
    ids = [str(one) for one in interactions.user_ids]
    if user not in ids:
        raise MmfedError(ExitCode.DATA, f"user {user!r}: not in the shop.", _nearest(user, ids, "user"))
    row = ids.index(user)
    history = interactions.items[interactions.rows(row)]
    return _recommend(run, config, workspace, history, k, user=user, row=row)


def recommend_for_history(
    run: RunFolder, config: Config, workspace: Workspace, item_ids: Sequence[str], *, k: int
) -> Recommendations:
    """The k best items for somebody who touched these items, oldest first; nobody training needs to know.

    Raises:
        MmfedError: an unknown item (the nearest ids are in the fix), an empty history, k out of range, no checkpoint.
    """
    known = {item: index for index, item in enumerate(workspace.shop.catalogue.item_ids)}
    wanted = [item.strip() for item in item_ids if item.strip()]
    if not wanted:
        raise MmfedError(ExitCode.CONFIG, "--history is empty.", "name at least one item, e.g. --history a,b,c.")
    for item in wanted:
        if item not in known:
            near = _by_title(workspace, item) or _nearest(item, list(known), "item")
            raise MmfedError(ExitCode.DATA, f"item {item!r}: not in the catalogue.", near)
    return _recommend(run, config, workspace, np.array([known[item] for item in wanted], dtype=np.int64), k)


def _recommend(
    run: RunFolder,
    config: Config,
    workspace: Workspace,
    history: IntArray,
    k: int,
    *,
    user: str | None = None,
    row: int | None = None,
) -> Recommendations:
    catalogue = workspace.shop.catalogue
    if not 1 <= k <= catalogue.size:
        raise MmfedError(
            ExitCode.CONFIG,
            f"-k {k}: the catalogue has {catalogue.size} items.",
            f"ask for 1 to {catalogue.size} items.",
        )
    learned = run_model(run, config, workspace)
    vectors: FloatArray | None = private_vectors(run, workspace, learned.model)
    if vectors is not None:
        vectors = (
            vectors[[row]] if row is not None else np.zeros((1, learned.model.private_dimensions), dtype=np.float32)
        )
    events = len(history)
    one = group_by_user(
        user_ids=[user or "somebody"],
        users=np.zeros(events, dtype=np.int64),
        items=history,
        times=np.arange(events),
        actions=np.zeros(events, dtype=np.int64),
        values=np.full(events, np.nan),
        item_count=catalogue.size,
    )
    scores = learned.scorer(one, vectors)(np.zeros(1, dtype=np.int64))
    scores[0, history] = -np.inf
    best = top_k(scores, k, tie_keys(catalogue.item_ids, config.run.seed))[0]
    return Recommendations(
        user=user,
        history=tuple(_item(workspace, int(item)) for item in history),
        items=tuple(_item(workspace, int(item), float(scores[0, item])) for item in best if item >= 0),
        round=learned.round,
    )


def _item(workspace: Workspace, item: int, score: float | None = None) -> Item:
    catalogue = workspace.shop.catalogue
    price = float(catalogue.prices[item])
    return Item(
        item=catalogue.item_ids[item],
        title=catalogue.label(item),
        category=_label(catalogue.category, item),
        price=round(price, 2) if math.isfinite(price) else None,
        store=_label(catalogue.store, item),
        score=score,
    )


def _label(column: Categorical | Tags | None, item: int) -> str | None:
    if column is None:
        return None
    if isinstance(column, Tags):
        return ", ".join(name for name, has in zip(column.names, column.matrix[item], strict=True) if has) or None
    code = int(column.codes[item])
    return column.names[code] if code >= 0 else None


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
