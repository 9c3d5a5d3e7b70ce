"""What the cold-start tables are compared with."""

from __future__ import annotations

import numpy as np

from mmfed.data.schema import Interactions
from mmfed.rng import hash_uniform
from mmfed.types import FloatArray, IntArray

DECAY = 0.95


def random_scores(key: int, users: IntArray, items: int) -> FloatArray:
    """[users, items] a fixed random score per (user, item) under a derived key."""
    return hash_uniform(key, np.asarray(users), np.arange(items))


def same_for_all(values: FloatArray, users: IntArray) -> FloatArray:
    """[users, items] the scores [items] for everybody."""
    return np.broadcast_to(values, (len(users), len(values)))


def nearest_content(content: FloatArray, history: Interactions) -> FloatArray:
    """[users, items] mean cosine with the history's items, weighted by recency; nothing is trained.

    Args:
        content: [items, d]; an all-zero row is as far from everything.
    """
    content = content.astype(np.float64)
    unit = content / np.maximum(np.linalg.norm(content, axis=1, keepdims=True), 1e-12)
    age = np.repeat(history.indptr[1:], history.lengths) - 1 - np.arange(len(history))
    states = np.zeros((history.user_count, content.shape[1]))
    np.add.at(states, history.user_of_row(), DECAY ** age[:, None] * unit[history.items])
    return states @ unit.T
