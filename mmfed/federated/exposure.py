"""The exposure alarm: after every round, whose lists would an item be in that was in few of them before?

Asked of made-up shoppers with histories drawn from the public catalogue, so it needs no data, costs no privacy and
works in every mode, secure aggregation included. It sees what a model does, not who made it do so.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mmfed.config import DefenceSection
from mmfed.federated.progress import load_parameters
from mmfed.federated.strategy import RoundState
from mmfed.models.base import Recommender
from mmfed.models.scoring import ModelScorer
from mmfed.rng import numpy_generator
from mmfed.types import FloatArray, IntArray

SHOPPERS, EVENTS = 256, 5
KEPT = "exposure.shares"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alarm:
    """An item whose exposure rose too fast.

    Attributes:
        item: its id.
        share: of the made-up shoppers' lists, that it is in now.
        before: what the share was, at its lowest of the last ``alarm_rounds`` rounds.
    """

    item: str
    share: float
    before: float


@dataclass(frozen=True, eq=False)
class MadeUpShoppers:
    """Histories of ``EVENTS`` different items, all items alike (fewer where the catalogue is smaller)."""

    indptr: IntArray
    items: IntArray
    values: FloatArray

    @classmethod
    def drawn(cls, item_count: int, *, seed: int) -> MadeUpShoppers:
        """``SHOPPERS`` of them."""
        generator, events = numpy_generator(seed, "made-up shoppers"), min(EVENTS, item_count)
        items = np.concatenate([generator.permutation(item_count)[:events] for _ in range(SHOPPERS)])
        return cls(np.arange(SHOPPERS + 1) * events, items, np.full(len(items), np.nan))

    def exposure(self, model: Recommender, k: int) -> FloatArray:
        """[items] share of their lists of ``k`` that an item is in; nobody is shown the own history."""
        scores = ModelScorer(model, self)(np.arange(SHOPPERS)).astype(np.float64)
        rows = np.repeat(np.arange(SHOPPERS), np.diff(self.indptr))
        scores[rows, self.items] = -np.inf
        k = min(k, scores.shape[1])
        shown = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        return np.bincount(shown.ravel(), minlength=scores.shape[1]) / SHOPPERS


class ExposureWatch:
    """Looks at every round's model.

    Args:
        model: of the run; not changed.
        section: when an alarm rings.
        names: [items] ids.
        seed: of the made-up shoppers.
        k: length of their lists.
    """

    def __init__(self, model: Recommender, section: DefenceSection, *, names: Sequence[str], seed: int, k: int) -> None:
        self._model, self._section, self._names, self._k = deepcopy(model), section, names, k
        self._shoppers = MadeUpShoppers.drawn(model.item_count, seed=seed)
        self._shares: deque[FloatArray] = deque(maxlen=section.alarm_rounds + 2)

    def watched(self, state: RoundState) -> RoundState:
        """The round with its alarms, each told once, and with what is needed to go on after a crash."""
        load_parameters(self._model, state.parameters)
        self._shares.append(self._shoppers.exposure(self._model, self._k))
        number = state.record.round
        alarms = self.alarms(number)
        for one in alarms:
            _log.warning(
                "exposure alarm, round %d: item %s is in %.0f %% of the made-up shoppers' lists, after %.0f %%",
                number, one.item, 100 * one.share, 100 * one.before,
            )  # fmt: skip
        kept = torch.from_numpy(np.stack(list(self._shares)))
        record = replace(state.record, alarms=tuple(asdict(one) for one in alarms))
        return replace(state, record=record, release={**state.release, KEPT: kept})

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Take up the rounds before, from what ``watched`` kept."""
        if KEPT in kept:
            self._shares.extend(kept[KEPT].numpy())

    def alarms(self, round_number: int) -> list[Alarm]:
        """Items that rose by ``alarm_rise`` in the last ``alarm_rounds`` rounds, and had not by the round before."""
        section, shares, rise = self._section, list(self._shares), self._section.alarm_rise
        if rise is None or round_number <= section.alarm_after or len(shares) < 2:
            return []
        now, before = shares[-1], _lowest(shares[:-1], section.alarm_rounds)
        risen = now - before >= rise
        if len(shares) > 2 and round_number - 1 > section.alarm_after:
            risen &= shares[-2] - _lowest(shares[:-2], section.alarm_rounds) < rise
        found = np.flatnonzero(risen)
        return [Alarm(self._names[int(item)], float(now[item]), float(before[item])) for item in found]


def _lowest(shares: Sequence[FloatArray], rounds: int) -> FloatArray:
    return np.min(shares[-rounds:], axis=0)
