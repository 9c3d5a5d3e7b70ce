"""Baselines by name."""

from __future__ import annotations

import difflib

from mmfed.errors import ExitCode, MmfedError
from mmfed.models.baselines.base import Baseline
from mmfed.models.baselines.bpr_mf import BPRMF
from mmfed.models.baselines.ease import EASE
from mmfed.models.baselines.freedom import Freedom
from mmfed.models.baselines.item_knn import ItemKNN
from mmfed.models.baselines.lightgcn import LightGCN
from mmfed.models.baselines.popularity import Popularity
from mmfed.models.baselines.random import RandomBaseline
from mmfed.models.baselines.vbpr import VBPR

BASELINES: dict[str, type[Baseline]] = {
    kind.name: kind for kind in (RandomBaseline, Popularity, ItemKNN, EASE, BPRMF, VBPR, LightGCN, Freedom)
}


def build_baseline(name: str) -> Baseline:
    """A baseline with its default settings.

    Raises:
        MmfedError: no baseline has that name.
    """
    if name not in BASELINES:
        near = difflib.get_close_matches(name, BASELINES, n=1)
        raise MmfedError(
            ExitCode.CONFIG,
            f"evaluation.baselines: '{name}' is not known.",
            f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(BASELINES)}.",
        )
    return BASELINES[name]()
