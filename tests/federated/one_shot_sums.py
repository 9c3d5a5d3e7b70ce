"""The sums of a one-shot release computed in one place, and a test of noise that has power both ways."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats
from tiny_shop import ITEMS

from mmfed.config import Config
from mmfed.federated.workspace import load_workspace
from mmfed.training.cooccurrence import packed


def direct_sums(config: Config, items: np.ndarray, users: list[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Popularity [items] and the packed co-occurrence of some items, by loops over everybody (or some) in one place."""
    train = load_workspace(config).split.train
    counts, total = np.zeros(ITEMS), np.zeros((ITEMS, ITEMS))
    for user in range(train.user_count) if users is None else users:
        latest = {int(item): place for place, item in enumerate(train.items[train.rows(user)])}
        counts[list(latest)] += 1 / math.sqrt(len(latest))
        own = np.zeros((ITEMS, ITEMS))
        for i, t in latest.items():
            for j, s in latest.items():
                own[i, j] = 0.95 ** abs(t - s) if i in items and j in items else 0.0
        total += own / max(np.linalg.norm(own), 1e-300)
    return counts, packed(total[np.ix_(items, items)])


def accepted(values: np.ndarray, sigma: float) -> bool:
    """Whether the variance of ``values`` is that of independent noise of deviation ``sigma``; two-sided, 1e-4."""
    statistic = float(np.square(values / sigma).sum())
    return bool(min(stats.chi2.cdf(statistic, values.size), stats.chi2.sf(statistic, values.size)) > 1e-4)
