"""Training batches: histories of several users as padded tensors, with every random choice addressed statelessly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
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
        people: [sequences, attributes] what each person says about the own person, as ``HistoryBatch.person``; None
            where nobody was asked.
    """

    keys: IntArray
    indptr: IntArray
    items: IntArray
    values: FloatArray | None = None
    actions: IntArray | None = None
    own: IntArray | None = None
    features: OwnFeatures | None = None
    people: IntArray | None = None

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
        people = None if self.people is None else self.people[index]
        return Histories(self.keys[index], indptr, self.items[rows], values, actions, own, self.features, people)


def joined(parts: Sequence[Histories]) -> Histories:
    """The sequences of all parts, items alone: what windows hold."""
    lengths = np.concatenate([[0], *(part.lengths for part in parts)])
    empty = np.zeros(0, dtype=np.int64)
    return Histories(
        keys=np.concatenate([np.zeros(0, dtype=np.uint64), *(part.keys for part in parts)]),
        indptr=np.cumsum(lengths).astype(np.int64),
        items=np.concatenate([empty, *(part.items for part in parts)]),
    )


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
    """The batch of one local step; see ``Batches``."""
    batches = Batches(histories, model=model, section=section, seed=seed, round_number=round_number, dtype=dtype)
    return batches.at(step, user_vectors)


class Batches:
    """The batches of some sequences, step by step; what the steps share is made once.

    Which positions are targets, which events are dropped and which negatives are drawn depends on (seed, round, step,
    sequence key) only, so a device alone and a cohort of thousands draw the same.

    Args:
        histories: the sequences.
        model: with the round's shared parameters; its item biases weigh negatives where that is asked for.
        section: objective, positions, negatives.
        dtype: of the batch's floats.
    """

    def __init__(
        self,
        histories: Histories,
        *,
        model: Recommender,
        section: TrainingSection,
        seed: int,
        round_number: int,
        dtype: torch.dtype,
    ) -> None:
        self._histories, self._model, self._section, self._dtype = histories, model, section, dtype
        self._seed, self._round = seed, round_number
        self._objective = objective_of(model, section)
        lengths = histories.lengths
        count, longest = len(histories), max(int(lengths.max(initial=0)), 1)
        self._events = np.arange(longest)
        known = self._events[None, :] < lengths[:, None]
        items = np.zeros((count, longest), dtype=np.int64)
        items[known] = histories.items
        self._known, self._touched, self._own = known, known, ()
        if histories.own is not None and histories.features is not None:
            rows = np.full((count, longest), -1, dtype=np.int64)
            rows[known] = histories.own
            self._touched, self._own = known & (rows < 0), own_events(rows, histories.features, dtype)
            items[~self._touched] = 0
        self._items = items
        self._given = np.full((count, longest), np.nan)
        if histories.values is not None:
            self._given[known] = rating_shares(histories.values, section.rating_range)
        self._actions = np.full((count, longest), -1, dtype=np.int64)
        if histories.actions is not None:
            self._actions[known] = histories.actions
        self._ratings = torch.from_numpy(np.where(np.isnan(self._given), 0.5, self._given)).to(dtype)
        self._person = () if histories.people is None else torch.from_numpy(histories.people)
        self._orders: dict[int, IntArray] = {}

    def at(self, step: int, user_vectors: Tensor) -> TrainingBatch:
        """The batch of a local step.

        Args:
            step: from 0.
            user_vectors: [sequences, p] private vectors; p is 0 for models without.
        """
        section, known, dtype = self._section, self._known, self._dtype
        kept = known
        if section.history_dropout:
            kept = known & (self._draw("history dropout", self._events, step) >= section.history_dropout)
        positions, valid = self._positions(step)
        targets = np.take_along_axis(self._items, positions, axis=1)
        if self._objective == "mse":
            valid = valid & ~np.isnan(np.take_along_axis(self._given, positions, axis=1))
        weights = valid / np.maximum(valid.sum(1, keepdims=True), 1)
        ordered = section.context == "past"
        negatives = self._negatives(positions, step)
        seen = self._seen(negatives, positions if ordered else np.full_like(positions, NEVER))
        where = torch.from_numpy(positions)
        return TrainingBatch(
            histories=HistoryBatch(
                items=torch.from_numpy(self._items),
                known=torch.from_numpy(known).to(dtype),
                kept=torch.from_numpy(kept).to(dtype),
                positions=where,
                others=torch.full(positions.shape, float(not ordered), dtype=dtype),
                user_vectors=user_vectors.to(dtype),
                ratings=self._ratings,
                own=self._own,
                person=self._person,
            ),
            targets=torch.from_numpy(targets),
            weights=torch.from_numpy(weights).to(dtype),
            first_seen=self._first_seen(ordered),
            negatives=torch.from_numpy(negatives),
            usable=torch.from_numpy(~seen & (negatives != targets[:, :, None])),
            ratings=self._ratings.gather(1, where),
            actions=torch.from_numpy(np.take_along_axis(self._actions, positions, axis=1)),
        )

    def _draw(self, purpose: str, columns: np.ndarray, at: int) -> np.ndarray:
        return hash_uniform(derive(self._seed, "local", self._round, at, purpose), self._histories.keys, columns)

    def _first_seen(self, ordered: bool) -> Tensor:
        """As ``TrainingBatch.first_seen``."""
        count, item_count = len(self._histories), self._model.item_count
        if self._objective != "softmax":
            return torch.zeros((count, 0), dtype=torch.int32)
        first_seen = np.full((count, item_count), NEVER, dtype=np.int32)
        users, columns = np.nonzero(self._touched)
        np.minimum.at(
            first_seen, (users, self._items[users, columns]), columns.astype(np.int32) if ordered else np.int32(-1)
        )
        return torch.from_numpy(first_seen)

    def _negatives(self, positions: IntArray, step: int) -> IntArray:
        """[sequences, states, negatives], the last axis empty where the objective needs none."""
        section, item_count = self._section, self._model.item_count
        if self._objective not in SAMPLED:
            return np.zeros((*positions.shape, 0), dtype=np.int64)
        drawn = section.negatives * (HARD_POOL if section.negative_sampling == "hard" else 1)
        cells = (positions[:, :, None] * drawn + np.arange(drawn)).reshape(len(positions), -1)
        chosen = self._draw("negatives", cells, step).reshape(*positions.shape, drawn)
        if section.negative_sampling == "popularity":
            ladder = self._ladder
            negatives = np.searchsorted(ladder / ladder[-1], chosen, side="right")
        else:
            negatives = (chosen * item_count).astype(np.int64)
        return np.minimum(negatives, item_count - 1)

    @cached_property
    def _ladder(self) -> FloatArray:
        """[items] the sum of the items' weights up to each."""
        values = self._model.item_values()
        bias = self._model.target_side(values, self._model.present(None))[1]
        return np.cumsum(torch.softmax(bias.detach().double(), dim=0).numpy())

    def _positions(self, step: int) -> tuple[IntArray, BoolArray]:
        """Positions [sequences, states], ascending, 0 where padded, and which of them are valid."""
        section, touched = self._section, self._touched
        events, longest = touched.sum(1), touched.shape[1]
        places = np.arange(max(min(section.positions, longest), 1)) + np.zeros((len(touched), 1), dtype=np.int64)
        epochs, ongoing = np.full(len(touched), step), np.ones(len(touched), dtype=bool)
        if section.epochs is not None:
            epochs, batch = step // _batches(events, section), step % _batches(events, section)
            places, ongoing = places + batch[:, None] * section.positions, epochs < section.epochs
        valid = (places < events[:, None]) & ongoing[:, None]
        most = max(int(valid.sum(1).max(initial=0)), 1)  # valid places come first
        places, valid = places[:, :most], valid[:, :most]
        positions = np.zeros(places.shape, dtype=np.int64)
        for epoch in np.unique(epochs[ongoing]):
            order = self._order(int(epoch))
            own = epochs == epoch
            positions[own] = np.take_along_axis(order, np.minimum(places, longest - 1), axis=1)[own]
        positions = np.sort(np.where(valid, positions, NEVER), axis=1)
        valid = positions < NEVER
        return np.where(valid, positions, 0), valid

    def _order(self, epoch: int) -> IntArray:
        """[sequences, longest] events in the order in which the epoch takes them as targets."""
        if epoch not in self._orders:
            drawn = self._draw("positions", self._events, epoch)
            self._orders[epoch] = np.argsort(np.where(self._touched, drawn, 2.0), axis=1, kind="stable")
        return self._orders[epoch]

    @cached_property
    def _cells(self) -> tuple[IntArray, IntArray]:
        """Cells (sequence · items + item) that the sequences hold, ascending, and the event at which each first is."""
        histories = self._histories
        rows = np.flatnonzero(histories.items >= 0)
        owner = np.repeat(np.arange(len(histories)), histories.lengths)
        cells, first = np.unique(owner[rows] * self._model.item_count + histories.items[rows], return_index=True)
        return cells, rows[first]

    def _seen(self, negatives: IntArray, positions: IntArray) -> BoolArray:
        """[sequences, states, negatives] whether the sequence holds the item before ``positions``."""
        cells, events = self._cells if negatives.size else (np.zeros(0, dtype=np.int64),) * 2
        if not len(cells):
            return np.zeros(negatives.shape, dtype=bool)
        starts = np.arange(len(negatives))[:, None, None]
        wanted = starts * self._model.item_count + negatives
        place = np.minimum(np.searchsorted(cells, wanted), len(cells) - 1)
        event = events[place] - self._histories.indptr[:-1][:, None, None]
        return (cells[place] == wanted) & (event < positions[:, :, None])


def local_steps(histories: Histories, section: TrainingSection) -> IntArray:
    """[sequences] gradient steps of each: ``steps``, or ``epochs`` passes over the own history in batches."""
    if section.epochs is None:
        return np.full(len(histories), section.steps)
    touched = np.concatenate([[0], np.cumsum(histories.items >= 0)])[histories.indptr]
    return section.epochs * _batches(np.diff(touched), section)


def _batches(events: IntArray, section: TrainingSection) -> IntArray:
    """Batches in an epoch; one, without a target, for a sequence without events."""
    return np.maximum(-(-events // section.positions), 1)


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
