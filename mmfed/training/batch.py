"""Training batches: histories of several users as padded tensors, with every random choice addressed statelessly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmfed.config import TrainingSection
from mmfed.models.base import HistoryBatch
from mmfed.rng import derive, hash_uniform
from mmfed.types import IntArray


@dataclass(frozen=True, eq=False)
class Histories:
    """Sequences to learn from: a user's whole history, or (record-level privacy) one window of it.

    Attributes:
        keys: [sequences] uint64, names the sequence in every derived random stream.
        indptr: [sequences + 1]; sequence i is ``items[indptr[i]:indptr[i + 1]]`` in time order.
        items: [events] item index.
    """

    keys: IntArray
    indptr: IntArray
    items: IntArray

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def lengths(self) -> IntArray:
        """[sequences] events of each."""
        return np.diff(self.indptr)

    def take(self, index: IntArray) -> Histories:
        """The chosen sequences, in that order."""
        lengths = self.lengths[index]
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows = np.arange(indptr[-1]) + np.repeat(self.indptr[:-1][index] - indptr[:-1], lengths)
        return Histories(self.keys[index], indptr, self.items[rows])


class TrainingBatch(NamedTuple):
    """A batch with its targets.

    Attributes:
        histories: the padded histories and positions.
        targets: [users, states] item index at each position.
        weights: [users, states] 1 / (number of valid positions of the user), 0 where padded.
        first_seen: [users, items] index of the item's first event in the history, a large number where there is none.
        negatives: [users, states, negatives] sampled items; empty last axis for the full softmax.
    """

    histories: HistoryBatch
    targets: Tensor
    weights: Tensor
    first_seen: Tensor
    negatives: Tensor


NEVER = 2**30


def training_batch(
    histories: Histories,
    *,
    section: TrainingSection,
    item_count: int,
    seed: int,
    round_number: int,
    step: int,
    user_vectors: Tensor,
    dtype: torch.dtype,
) -> TrainingBatch:
    """The batch of one local step.

    Which positions are targets, which events are dropped and which negatives are drawn depends on (seed, round, step,
    sequence key) only, so a device alone and a cohort of thousands draw the same.

    Args:
        user_vectors: [sequences, d] private vectors (zeros for models without).
    """
    lengths = histories.lengths
    count, longest = len(histories), max(int(lengths.max(initial=0)), 1)
    events = np.arange(longest)
    known = events[None, :] < lengths[:, None]
    items = np.zeros((count, longest), dtype=np.int64)
    items[known] = histories.items

    def draw(purpose: str, columns: int) -> np.ndarray:
        return hash_uniform(derive(seed, "local", round_number, step, purpose), histories.keys, np.arange(columns))

    kept = known & (draw("history dropout", longest) >= section.history_dropout) if section.history_dropout else known
    states = max(min(section.positions, longest), 1)
    order = np.where(known, draw("positions", longest), 2.0)
    positions = np.sort(np.argsort(order, axis=1, kind="stable")[:, :states], axis=1)
    valid = positions < lengths[:, None]
    positions = np.where(valid, positions, 0)
    targets = np.take_along_axis(items, positions, axis=1)
    weights = valid / np.maximum(valid.sum(1, keepdims=True), 1)

    first_seen = np.full((count, item_count), NEVER, dtype=np.int32)
    users, columns = np.nonzero(known)
    np.minimum.at(first_seen, (users, items[users, columns]), columns.astype(np.int32))

    negatives = np.zeros((count, states, 0), dtype=np.int64)
    if section.objective != "softmax":
        uniform = draw("negatives", longest * section.negatives).reshape(count, longest, section.negatives)
        chosen = np.take_along_axis(uniform, positions[:, :, None], axis=1)
        negatives = np.minimum((chosen * item_count).astype(np.int64), item_count - 1)
    return TrainingBatch(
        histories=HistoryBatch(
            items=torch.from_numpy(items),
            known=torch.from_numpy(known).to(dtype),
            kept=torch.from_numpy(kept).to(dtype),
            positions=torch.from_numpy(positions),
            user_vectors=user_vectors.to(dtype),
        ),
        targets=torch.from_numpy(targets),
        weights=torch.from_numpy(weights).to(dtype),
        first_seen=torch.from_numpy(first_seen),
        negatives=torch.from_numpy(negatives),
    )
