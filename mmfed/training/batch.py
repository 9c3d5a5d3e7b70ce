"""Training batches: histories of several users as padded tensors, with every random choice addressed statelessly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmfed.config import TrainingSection
from mmfed.encoders.own import OwnFeatures
from mmfed.models.base import HistoryBatch, Recommender, rating_shares
from mmfed.models.own_events import own_events
from mmfed.rng import derive, hash_uniform
from mmfed.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Histories:
    """Sequences to learn from: a user's whole history, or (record-level privacy) one window of it.

    Attributes:
        keys: [sequences] uint64, names the sequence in every derived random stream.
        indptr: [sequences + 1]; sequence i is ``items[indptr[i]:indptr[i + 1]]`` in time order.
        items: [events] item index; -1 at own content.
        values: [events] rating, NaN where there is none; None where nobody rates.
        actions: [events] ``Action``; None where unknown.
        own: [events] row of ``features`` at own content, -1 at an interaction; None where nobody has any.
        features: of everybody's own content.
    """

    keys: IntArray
    indptr: IntArray
    items: IntArray
    values: FloatArray | None = None
    actions: IntArray | None = None
    own: IntArray | None = None
    features: OwnFeatures | None = None

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
        own = None if self.own is None else self.own[rows]
        return Histories(self.keys[index], indptr, self.items[rows], values, actions, own, self.features)


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
            -1 for all of the user's items where order is not time. No column where negatives are sampled.
        negatives: [users, states, negatives] sampled items; empty last axis where the objective needs none.
        usable: [users, states, negatives] true where the item is not the target and was not touched before it.
        ratings: [users, states] rating of the target as a share of the rating range; 0.5 where there is none.
        actions: [users, states] ``Action`` at the target, -1 where unknown.
    """

    histories: HistoryBatch
    targets: Tensor
    weights: Tensor
    first_seen: Tensor
    negatives: Tensor
    usable: Tensor
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
    touched, own = known, ()
    if histories.own is not None and histories.features is not None:
        rows = np.full((count, longest), -1, dtype=np.int64)
        rows[known] = histories.own
        touched, own = known & (rows < 0), own_events(rows, histories.features, dtype)
        items[~touched] = 0

    def draw(purpose: str, columns: np.ndarray, at: int = step) -> np.ndarray:
        return hash_uniform(derive(seed, "local", round_number, at, purpose), histories.keys, columns)

    kept = known & (draw("history dropout", events) >= section.history_dropout) if section.history_dropout else known
    positions, valid = _positions(section, touched, step, lambda at: draw("positions", events, at))
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

    ordered = section.context == "past"
    first_seen = np.zeros((count, 0), dtype=np.int32)
    if objective == "softmax":
        first_seen = np.full((count, item_count), NEVER, dtype=np.int32)
        users, columns = np.nonzero(touched)
        np.minimum.at(first_seen, (users, items[users, columns]), columns.astype(np.int32) if ordered else -1)

    negatives = np.zeros((*positions.shape, 0), dtype=np.int64)
    if objective in SAMPLED:
        drawn = section.negatives * (HARD_POOL if section.negative_sampling == "hard" else 1)
        cells = (positions[:, :, None] * drawn + np.arange(drawn)).reshape(count, -1)
        chosen = draw("negatives", cells).reshape(*positions.shape, drawn)
        if section.negative_sampling == "popularity":
            ladder = np.cumsum(torch.softmax(model.item_tables().bias.detach().double(), dim=0).numpy())
            negatives = np.searchsorted(ladder / ladder[-1], chosen, side="right")
        else:
            negatives = (chosen * item_count).astype(np.int64)
        negatives = np.minimum(negatives, item_count - 1)
    seen = _seen(histories, item_count, negatives, positions if ordered else np.full_like(positions, NEVER))
    return TrainingBatch(
        histories=HistoryBatch(
            items=torch.from_numpy(items),
            known=torch.from_numpy(known).to(dtype),
            kept=torch.from_numpy(kept).to(dtype),
            positions=torch.from_numpy(positions),
            others=torch.full(positions.shape, float(not ordered), dtype=dtype),
            user_vectors=user_vectors.to(dtype),
            ratings=torch.from_numpy(ratings).to(dtype),
            own=own,
        ),
        targets=torch.from_numpy(targets),
        weights=torch.from_numpy(weights).to(dtype),
        first_seen=torch.from_numpy(first_seen),
        negatives=torch.from_numpy(negatives),
        usable=torch.from_numpy(~seen & (negatives != targets[:, :, None])),
        ratings=torch.from_numpy(np.take_along_axis(ratings, positions, axis=1)).to(dtype),
        actions=torch.from_numpy(np.take_along_axis(actions, positions, axis=1)),
    )


def local_steps(histories: Histories, section: TrainingSection) -> IntArray:
    """[sequences] gradient steps of each: ``steps``, or ``epochs`` passes over the own history in batches."""
    if section.epochs is None:
        return np.full(len(histories), section.steps)
    touched = np.concatenate([[0], np.cumsum(histories.items >= 0)])[histories.indptr]
    return section.epochs * _batches(np.diff(touched), section)


def _batches(events: IntArray, section: TrainingSection) -> IntArray:
    """Batches in an epoch; one, without a target, for a sequence without events."""
    return np.maximum(-(-events // section.positions), 1)


def _positions(
    section: TrainingSection, touched: BoolArray, step: int, draw: Callable[[int], np.ndarray]
) -> tuple[IntArray, BoolArray]:
    """Positions [sequences, states], ascending, 0 where padded, and which of them are valid.

    Args:
        touched: [sequences, longest] whether the event may be a target.
        draw: uniforms [sequences, longest] of a step; an epoch uses those of the step with its number.
    """
    events, longest = touched.sum(1), touched.shape[1]
    places = np.arange(max(min(section.positions, longest), 1)) + np.zeros((len(touched), 1), dtype=np.int64)
    epochs, ongoing = np.full(len(touched), step), np.ones(len(touched), dtype=bool)
    if section.epochs is not None:
        epochs, batch = step // _batches(events, section), step % _batches(events, section)
        places, ongoing = places + batch[:, None] * section.positions, epochs < section.epochs
    positions = np.zeros(places.shape, dtype=np.int64)
    for epoch in np.unique(epochs):
        order = np.argsort(np.where(touched, draw(int(epoch)), 2.0), axis=1, kind="stable")
        own = epochs == epoch
        positions[own] = np.take_along_axis(order, np.minimum(places, longest - 1), axis=1)[own]
    valid = (places < events[:, None]) & ongoing[:, None]
    positions = np.sort(np.where(valid, positions, NEVER), axis=1)
    valid = positions < NEVER
    return np.where(valid, positions, 0), valid


def _seen(histories: Histories, item_count: int, negatives: IntArray, positions: IntArray) -> BoolArray:
    """[sequences, states, negatives] whether the sequence holds the item before ``positions`` [sequences, states]."""
    rows = np.flatnonzero(histories.items >= 0)
    if not negatives.size or not len(rows):
        return np.zeros(negatives.shape, dtype=bool)
    owner = np.repeat(np.arange(len(histories)), histories.lengths)
    cells, first = np.unique(owner[rows] * item_count + histories.items[rows], return_index=True)
    wanted = np.arange(len(histories))[:, None, None] * item_count + negatives
    place = np.minimum(np.searchsorted(cells, wanted), len(cells) - 1)
    event = rows[first[place]] - histories.indptr[:-1][:, None, None]
    return (cells[place] == wanted) & (event < positions[:, :, None])


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
