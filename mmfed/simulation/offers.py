"""Stores and campaigns for one person, from a run's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmfed.applications.campaigns import Campaign, choose_campaign
from mmfed.applications.item_sets import best_items
from mmfed.applications.stores import recommend_stores, several_stores
from mmfed.data.schema import Catalogue
from mmfed.simulation.person_scores import PersonScores
from mmfed.simulation.recommend import Item, shown_history, shown_item


@dataclass(frozen=True)
class Store:
    """A store of the list.

    Attributes:
        score: in standard deviations of the person's item scores.
        items: its best for the person, which make its score.
    """

    store: str
    score: float
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Offer:
    """The campaign for a person.

    Attributes:
        score: above chance, in standard deviations of the person's item scores.
        items: those of the campaign that carried it, best first.
    """

    campaign: str
    text: str | None
    score: float
    items: tuple[Item, ...]


@dataclass(frozen=True)
class StoreList:
    """The stores for one person, best first; ``user``, ``history``, ``round`` and ``query`` as in a list of items."""

    user: str | None
    history: tuple[Item, ...]
    stores: tuple[Store, ...]
    round: int
    query: str | None = None


@dataclass(frozen=True)
class CampaignChoice:
    """What one person is shown, None where nothing; the other fields as in a list of items."""

    user: str | None
    history: tuple[Item, ...]
    campaign: Offer | None
    round: int
    query: str | None = None


def offer_stores(person: PersonScores, catalogue: Catalogue, *, k: int, seed: int) -> StoreList:
    """The k best stores; fewer where fewer have anything that the person has not touched.

    Raises:
        MmfedError: the shop has fewer than two stores.
    """
    column = several_stores(catalogue.store)
    lists, scores = recommend_stores(person.scores[None], column, k=k, seed=seed)
    stores = []
    for one in (int(one) for one in lists[0] if one >= 0):
        best = best_items(person.scores, np.flatnonzero(column.codes == one), seed=seed)
        stores.append(Store(column.names[one], float(scores[0, one]), _shown(person, catalogue, best)))
    history = shown_history(person, catalogue)
    return StoreList(person.user, history, tuple(stores), person.round, person.query)


def offer_campaign(
    person: PersonScores, catalogue: Catalogue, campaigns: Sequence[Campaign], *, seed: int
) -> CampaignChoice:
    """The campaign to show; none where none is better than chance for this person."""
    choice = choose_campaign(person.scores, campaigns, seed=seed)
    offer = None
    if choice is not None:
        items = _shown(person, catalogue, choice.items)
        offer = Offer(choice.campaign.id, choice.campaign.text, choice.score, items)
    return CampaignChoice(person.user, shown_history(person, catalogue), offer, person.round, person.query)


def _shown(person: PersonScores, catalogue: Catalogue, items: Sequence[int] | np.ndarray) -> tuple[Item, ...]:
    return tuple(shown_item(catalogue, int(item), float(person.scores[item])) for item in items)
