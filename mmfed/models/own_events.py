"""Own content among the interactions: one order of events per user, and what a model reads of the private ones."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch

from mmfed.data.schema import Interactions
from mmfed.encoders.own import OwnFeatures
from mmfed.models.base import OwnEvents
from mmfed.types import FloatArray, IntArray

NO_ITEM, NO_ACTION = -1, -1


@dataclass(frozen=True, eq=False)
class Timelines:
    """What people did and their own content, in order of time; CSR by user like ``Interactions``.

    Attributes:
        indptr: [users + 1] int64.
        items: [events] item index, ``NO_ITEM`` at own content.
        values: [events] rating, NaN at own content.
        actions: [events] ``Action``, ``NO_ACTION`` at own content.
        rows: [events] row of ``features`` at own content, -1 at an interaction.
        features: of everybody's own content.
    """

    indptr: IntArray
    items: IntArray
    values: FloatArray
    actions: IntArray
    rows: IntArray
    features: OwnFeatures


def timelines(history: Interactions, features: OwnFeatures, until: IntArray, reads: Collection[str]) -> Timelines:
    """Interactions with own content among them; at equal times the interaction comes first.

    Args:
        history: of the users of ``features``, in the same order.
        until: [users] seconds since 1970; own content from then on is left out (no look-ahead).
        reads: the modalities that matter; own content with none of them is left out.
    """
    content = features.content
    users = content.user_of_row()
    rows = np.flatnonzero(features.readable(reads) & (content.times < until[users]))
    owners = np.concatenate([history.user_of_row(), users[rows]])
    # Stable, and interactions stand first: their own order stays, and ties are theirs.
    order = np.lexsort((np.concatenate([history.times, content.times[rows]]), owners))
    count = len(rows)

    def joined(column: np.ndarray, missing: float) -> np.ndarray:
        return np.concatenate([column, np.full(count, missing, dtype=column.dtype)])[order]

    return Timelines(
        indptr=np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=history.user_count))]).astype(np.int64),
        items=joined(history.items, NO_ITEM),
        values=joined(history.values, np.nan),
        actions=joined(history.actions, NO_ACTION),
        rows=np.concatenate([np.full(len(history), -1), rows])[order],
        features=features,
    )


def own_events(rows: IntArray, features: OwnFeatures, dtype: torch.dtype) -> OwnEvents:
    """What a batch holds of own content.

    Args:
        rows: [users, events] row of ``features``, -1 at interactions and where padded.

    Returns:
        At least one entry per user, so that batches of the same people have the same parts.
    """
    most = max(int((rows >= 0).sum(1).max(initial=0)), 1)
    slots = np.argsort(rows < 0, axis=1, kind="stable")[:, :most]
    chosen = np.take_along_axis(rows, slots, axis=1)
    known = chosen >= 0
    values, present = {}, {}
    for name, one in features.modalities.items():
        values[name] = torch.from_numpy(np.where(known[..., None], one.values[chosen], 0.0)).to(dtype)
        present[name] = torch.from_numpy(known & one.present[chosen]).to(dtype)
    return OwnEvents(torch.from_numpy(slots), torch.from_numpy(known).to(dtype), values, present)
