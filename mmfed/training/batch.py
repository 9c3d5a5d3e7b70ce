"""Training batches: histories of several users as padded tensors, with every random choice addressed statelessly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmfed.config import TrainingSection
from mmfed.models.base import HistoryBatch, Recommender, rating_shares
from mmfed.rng import derive, hash_uniform
from mmfed.types import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Histories:
    """Sequences to learn from: a user's whole history, or (record-level privacy) one window of it.

    Attributes:
        keys: [sequences] uint64, names the sequence in every derived random stream.
        indptr: [sequences + 1]; sequence i is ``items[indptr[i]:indptr[i + 1]]`` in time order.
        items: [events] item index.
        values: [events] rating, NaN where there is none; None where nobody rates.
        actions: [events] ``Action``; None where unknown.
    """

    keys: IntArray
    indptr: IntArray
    items: IntArray
    values: FloatArray | None = None
    actions: IntArray | None = None

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
        values = None if self.values is None else self.values[rows]
        actions = None if self.actions is None else self.actions[rows]
        return Histories(self.keys[index], indptr, self.items[rows], values, actions)


SAMPLED = ("sampled-softmax", "bpr", "bce")


def objective_of(model: Recommender, section: TrainingSection) -> str:
    """The objective by name, the model's own for "default"."""
    if section.objective == "default":
        return "mse" if model.ratings else model.default_objective
    return section.objective


class TrainingBatch(NamedTuple):
    """A batch with its targets.

    Attributes:
        histories: the padded histories and positions.
        targets: [users, states] item index at each position.
        weights: [users, states] 1 / (number of valid positions of the user), 0 where padded.
        first_seen: [users, items] index of the item's first event in the history, a large number where there is none;
            -1 for all of the user's items where order is not time.
        negatives: [users, states, negatives] sampled items; empty last axis where the objective needs none.
        ratings: [users, states] rating of the target as a share of the rating range; 0.5 where there is none.
        actions: [users, states] ``Action`` at the target, -1 where unknown.
    """

    histories: HistoryBatch
    targets: Tensor
    weights: Tensor
    first_seen: Tensor
    negatives: Tensor
    ratings: Tensor
    actions: Tensor


NEVER = 2**30
HARD_POOL = 4  # hard negatives are the best-scored of this many times as many


def training_batch(
    histories: Histories,
    *,
    model: Recommender,
    section: TrainingSection,
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
        model: with the round's shared parameters; its item biases weigh negatives where that is asked for.
        user_vectors: [sequences, p] private vectors; p is 0 for models without.
    """
    objective, item_count = objective_of(model, section), model.item_count
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
    given = np.full((count, longest), np.nan)
    if histories.values is not None:
        given[known] = rating_shares(histories.values, section.rating_range)
    ratings = np.where(np.isnan(given), 0.5, given)
    actions = np.full((count, longest), -1, dtype=np.int64)
    if histories.actions is not None:
        actions[known] = histories.actions
    if objective == "mse":
        valid = valid & ~np.isnan(np.take_along_axis(given, positions, axis=1))
    weights = valid / np.maximum(valid.sum(1, keepdims=True), 1)

    first_seen = np.full((count, item_count), NEVER, dtype=np.int32)
    users, columns = np.nonzero(known)
    np.minimum.at(first_seen, (users, items[users, columns]), columns.astype(np.int32))
    others = np.full(positions.shape, section.context == "others")
    if section.context == "others":
        first_seen[first_seen < NEVER] = -1  # no order: everything of the user's own is known at every position

    negatives = np.zeros((count, states, 0), dtype=np.int64)
    if objective in SAMPLED:
        drawn = section.negatives * (HARD_POOL if section.negative_sampling == "hard" else 1)
        uniform = draw("negatives", longest * drawn).reshape(count, longest, drawn)
        chosen = np.take_along_axis(uniform, positions[:, :, None], axis=1)
        if section.negative_sampling == "popularity":
            ladder = np.cumsum(torch.softmax(model.item_tables().bias.detach().double(), dim=0).numpy())
            negatives = np.searchsorted(ladder / ladder[-1], chosen, side="right")
        else:
            negatives = (chosen * item_count).astype(np.int64)
        negatives = np.minimum(negatives, item_count - 1)
    return TrainingBatch(
        histories=HistoryBatch(
            items=torch.from_numpy(items),
            known=torch.from_numpy(known).to(dtype),
            kept=torch.from_numpy(kept).to(dtype),
            positions=torch.from_numpy(positions),
            others=torch.from_numpy(others).to(dtype),
            user_vectors=user_vectors.to(dtype),
            ratings=torch.from_numpy(ratings).to(dtype),
        ),
        targets=torch.from_numpy(targets),
        weights=torch.from_numpy(weights).to(dtype),
        first_seen=torch.from_numpy(first_seen),
        negatives=torch.from_numpy(negatives),
        ratings=torch.from_numpy(np.take_along_axis(ratings, positions, axis=1)).to(dtype),
        actions=torch.from_numpy(np.take_along_axis(actions, positions, axis=1)),
    )


def modality_mask(
    model: Recommender, section: TrainingSection, *, seed: int, round_number: int, step: int
) -> Tensor | None:
    """[items, modalities] 0 where a modality of an item is hidden in this step, alike for all users; None for nothing.

    Modality dropout teaches the towers to do without what an item may lack; the id is one of the columns, so items
    without a trained id are practised too.
    """
    if not section.modality_dropout:
        return None
    columns = np.arange(model.modality_columns)
    key = derive(seed, "local", round_number, step, "modality dropout")
    uniform = hash_uniform(key, np.arange(model.item_count, dtype=np.uint64), columns)
    dtype = next(model.parameters()).dtype
    return torch.from_numpy(uniform >= section.modality_dropout).to(dtype)
