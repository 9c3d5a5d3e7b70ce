"""Lists from a run's model: for a person of the shop, or for anybody whose history is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mmfed.config import Config
from mmfed.data.schema import Catalogue, Categorical, Tags
from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.protocol import tie_keys
from mmfed.evaluation.ranking import top_k
from mmfed.federated.workspace import Workspace
from mmfed.records import RunFolder
from mmfed.simulation.person_scores import PersonScores, scores_for_history, scores_for_user


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
        query: what the person looks for, in words; None without.
        items: best first; shorter than asked when fewer items are left.
        round: of the model.
    """

    user: str | None
    history: tuple[Item, ...]
    items: tuple[Item, ...]
    round: int
    query: str | None = None


def recommend_for_user(
    run: RunFolder, config: Config, workspace: Workspace, user: str, *, k: int, query: str | None = None
) -> Recommendations:
    """The k best items for a person of the shop, from everything the person did, held-out interactions included.

    Raises:
        MmfedError: k out of range, or as ``scores_for_user``.
    """
    check_length(k, workspace.shop.catalogue)
    person = scores_for_user(run, config, workspace, user, query=query)
    return recommended(person, workspace.shop.catalogue, k=k, seed=config.run.seed)


def recommend_for_history(
    run: RunFolder,
    config: Config,
    workspace: Workspace,
    item_ids: Sequence[str],
    *,
    k: int,
    query: str | None = None,
) -> Recommendations:
    """The k best items for somebody who touched these items, oldest first; nobody training needs to know.

    Raises:
        MmfedError: k out of range, or as ``scores_for_history``.
    """
    check_length(k, workspace.shop.catalogue)
    person = scores_for_history(run, config, workspace, item_ids, query=query)
    return recommended(person, workspace.shop.catalogue, k=k, seed=config.run.seed)


def recommended(person: PersonScores, catalogue: Catalogue, *, k: int, seed: int) -> Recommendations:
    """The k best items, equal scores in an order that ``seed`` gives."""
    best = top_k(person.scores[None], k, tie_keys(catalogue.item_ids, seed))[0]
    return Recommendations(
        user=person.user,
        history=shown_history(person, catalogue),
        items=tuple(shown_item(catalogue, int(item), float(person.scores[item])) for item in best if item >= 0),
        round=person.round,
        query=person.query,
    )


def check_length(k: int, catalogue: Catalogue) -> None:
    """Raises:
    MmfedError: no list of k items can be made of the catalogue.
    """
    if not 1 <= k <= catalogue.size:
        raise MmfedError(
            ExitCode.CONFIG,
            f"-k {k}: the catalogue has {catalogue.size} items.",
            f"ask for 1 to {catalogue.size} items.",
        )


def shown_item(catalogue: Catalogue, item: int, score: float | None = None) -> Item:
    """An item of the catalogue as a person sees it."""
    price = float(catalogue.prices[item])
    return Item(
        item=catalogue.item_ids[item],
        title=catalogue.label(item),
        category=_label(catalogue.category, item),
        price=round(price, 2) if math.isfinite(price) else None,
        store=_label(catalogue.store, item),
        score=score,
    )


def shown_history(person: PersonScores, catalogue: Catalogue) -> tuple[Item, ...]:
    """What the person touched, oldest first."""
    return tuple(shown_item(catalogue, int(item)) for item in person.history)


def _label(column: Categorical | Tags | None, item: int) -> str | None:
    if column is None:
        return None
    if isinstance(column, Tags):
        return ", ".join(name for name, has in zip(column.names, column.matrix[item], strict=True) if has) or None
    code = int(column.codes[item])
    return column.names[code] if code >= 0 else None
