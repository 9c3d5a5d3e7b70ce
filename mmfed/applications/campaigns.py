"""Personalised marketing (the article, Applications 3): which campaign a person is shown, decided on the device.

A campaign's score for a person is the mean of the ``best`` highest standardised scores among its items, less what a
random set of as many items would have for that person. The campaign with the highest score is shown, if it is above 0;
otherwise none is: not even the best one promises more than chance. Large campaigns gain nothing by their size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmfed.applications.item_sets import BEST, best_items, best_mean, chance_weights, standardised
from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.protocol import tie_keys
from mmfed.evaluation.ranking import top_k
from mmfed.types import FloatArray, IntArray

_ROUNDING = 1e-9  # what equals chance must not exceed it by rounding


@dataclass(frozen=True)
class Campaign:
    """A coupon or campaign; public.

    Attributes:
        id: unique among the campaigns.
        text: what the person reads; None without.
        items: the items it advertises, indices into the catalogue.
        cap: how often one person may be shown it; None: without limit.
    """

    id: str
    text: str | None
    items: tuple[int, ...]
    cap: int | None = None

    def __post_init__(self) -> None:
        if not self.items:
            raise MmfedError(
                ExitCode.DATA, f"campaign {self.id!r} advertises no item.", "name at least one item of the catalogue."
            )
        if self.cap is not None and self.cap < 1:
            raise MmfedError(
                ExitCode.DATA, f"campaign {self.id!r}: cap {self.cap}.", "write 1 or more, or no cap for no limit."
            )


@dataclass(frozen=True)
class Choice:
    """The campaign for a person.

    Attributes:
        score: above chance, in standard deviations of the person's item scores.
        items: those that carried it, best first.
    """

    campaign: Campaign
    score: float
    items: tuple[int, ...]


def campaign_scores(item_scores: FloatArray, campaigns: Sequence[Campaign], *, best: int = BEST) -> FloatArray:
    """[users, campaigns]: how far each is above chance for each person; -inf where none of its items can be offered.

    Args:
        item_scores: [users, items]; -inf for items that cannot be offered.

    Raises:
        MmfedError: a score is NaN or +inf, a campaign's item is outside the catalogue, or ``best`` is below 1.
    """
    scores = standardised(item_scores)
    users, items = scores.shape
    found = np.full((users, len(campaigns)), -np.inf)
    available = np.isfinite(scores).sum(1)
    ordered = -np.sort(-scores, axis=1)
    chance: dict[tuple[int, int], FloatArray] = {}
    for place, campaign in enumerate(campaigns):
        columns = _columns(campaign, items)
        found[:, place] = best_mean(scores[:, columns], best)
        sizes = np.isfinite(scores[:, columns]).sum(1)
        for user in np.flatnonzero(sizes):
            key = (int(available[user]), int(sizes[user]))
            if key not in chance:
                chance[key] = chance_weights(*key, best)
            found[user, place] -= chance[key] @ ordered[user, : key[0]]
    return found


def choose_campaign(
    item_scores: FloatArray,
    campaigns: Sequence[Campaign],
    *,
    seed: int,
    shown: Mapping[str, int] | None = None,
    best: int = BEST,
) -> Choice | None:
    """The campaign that one person is shown; None where none is better than chance.

    Args:
        item_scores: [items] of the person; -inf for items that cannot be offered.
        seed: orders equal scores, by a hash of the campaign's id.
        shown: how often this person saw each campaign, by id; one at its cap is left out. Stays on the device.

    Raises:
        MmfedError: as ``campaign_scores``.
    """
    seen = shown or {}
    left = [one for one in campaigns if one.cap is None or seen.get(one.id, 0) < one.cap]
    if not left:
        return None
    scores = campaign_scores(item_scores[None], left, best=best)
    scores[scores <= _ROUNDING] = -np.inf
    first = int(top_k(scores, 1, tie_keys([one.id for one in left], seed))[0, 0])
    if first < 0:
        return None
    carried = best_items(item_scores, _columns(left[first], len(item_scores)), seed=seed, best=best)
    return Choice(left[first], float(scores[0, first]), tuple(int(item) for item in carried))


def _columns(campaign: Campaign, items: int) -> IntArray:
    columns = np.unique(np.array(campaign.items, dtype=np.int64))
    if columns[0] < 0 or columns[-1] >= items:
        raise MmfedError(
            ExitCode.FAULT,
            f"campaign {campaign.id!r} names item {int(columns[0] if columns[0] < 0 else columns[-1])} of {items}.",
            "pass indices into the catalogue the scores are of.",
        )
    return columns
