"""Local training of many users at once, on the rows of the item tables that each user's loss reads.

A user's loss reads the history rows of the own events, and the target rows of the targets and sampled negatives (with
the full softmax: of every item). Rows are computed from the items' inputs gathered per user, and a parameter with one
row per item (ids, biases) is changed at the touched rows alone, so the cost of a user does not grow with the catalogue.

Every user has parameters of their own: the round's, plus the change so far. Models that are ``batched`` take them with
one more axis. Projections of frozen features are the largest product: (P + Δ_u) X is P X, known for all items since the
round began, plus Δ_u X, and the gradient of Δ_u is one product of the same features with the gradient of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from mmfed.config import TrainingSection
from mmfed.fusion.head import KnownProduct, Values
from mmfed.models.base import ItemTables, Projection, Recommender
from mmfed.training.batch import TrainingBatch
from mmfed.training.local_optimiser import LocalOptimiser
from mmfed.training.objective import action_losses, losses_of_states, task_losses
from mmfed.types import IntArray

Parameters = dict[str, Tensor]


LARGE = 4096  # numbers of a user
MANY = 0.25  # a share of the catalogue: of so many candidates a step computes each item once


@dataclass(frozen=True, eq=False)
class Places:
    """Where a step's items lie among the touched rows.

    Attributes:
        events: [users, events] row of every event; no column where the model reads no history.
        targets: [users, states, candidates] row of every candidate, the target first; [users, candidates] of each
            scored item once; None: all rows.
        batch: the step's batch; of scored items its targets and negatives are renumbered within ``targets``.
    """

    events: Tensor
    targets: Tensor | None
    batch: TrainingBatch


@dataclass(frozen=True, eq=False)
class TouchedRows:
    """The items that some users' batches read.

    Attributes:
        items: [users, rows] the item of every row, distinct per user and padded with a repetition that nothing reads;
            None: every item is a row of every user.
        steps: one entry per local step.
    """

    items: Tensor | None
    steps: tuple[Places, ...]


def touched_rows(batches: Sequence[TrainingBatch], item_count: int, *, history: bool) -> TouchedRows:
    """The rows of all local steps together. With the full softmax all items are rows.

    Args:
        history: whether the model reads the events of the history.
    """
    events = batches[0].histories.items[:, : None if history else 0]
    if batches[0].first_seen.shape[1]:
        return TouchedRows(None, tuple(Places(events, None, batch) for batch in batches))
    scored: list[tuple[IntArray, TrainingBatch]] = []
    for batch in batches:
        read = torch.cat([batch.targets[:, :, None], batch.negatives], dim=2).numpy()
        if read[0].size > MANY * item_count:
            found, local = distinct(read.reshape(len(read), -1), item_count)
            renumbered = torch.from_numpy(local.reshape(read.shape))
            batch = batch._replace(
                targets=renumbered[:, :, 0].contiguous(), negatives=renumbered[:, :, 1:].contiguous()
            )
            scored.append((found, batch))
        else:
            scored.append((read, batch))
    parts = [events.numpy(), *(found.reshape(len(found), -1) for found, _ in scored)]
    items, places = distinct(np.concatenate(parts, axis=1), item_count)
    cut = np.cumsum([part.shape[1] for part in parts])[:-1]
    of_events, *of_steps = (torch.from_numpy(part) for part in np.split(places, cut, axis=1))
    steps = (
        Places(of_events, place.reshape(found.shape), batch)
        for place, (found, batch) in zip(of_steps, scored, strict=True)
    )
    return TouchedRows(torch.from_numpy(items), tuple(steps))


def distinct(items: IntArray, item_count: int) -> tuple[IntArray, IntArray]:
    """Distinct items per row, ascending, padded by repeating the last; and the place of every entry among them."""
    rows = np.arange(len(items))[:, None]
    cells, inverse = np.unique(rows * item_count + items, return_inverse=True)
    counts = np.bincount(cells // item_count, minlength=len(items))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    within = np.minimum(np.arange(int(counts.max(initial=1))), counts[:, None] - 1)
    return cells[starts[:, None] + within] % item_count, inverse.reshape(items.shape) - starts[:, None]


def clip_factors(change: Parameters, clip_norm: float, *, guard: float = 0.0) -> Tensor:
    """[users] float64, at most 1, so that each user's scaled change has norm ≤ ``clip_norm``; 1 for a zero change."""
    return bounded(sum(map(squared_norms, change.values()), torch.zeros(())), clip_norm, guard)


def squared_norms(values: Tensor) -> Tensor:
    """[users] float64 squared norm of each user's [users, *shape]: of large ones a product, one pass over memory."""
    rows = values.flatten(1)
    if rows.shape[1] < LARGE:
        return rows.square().sum(1, dtype=torch.float64)
    return torch.stack([torch.dot(row, row) for row in rows]).double()


def bounded(squares: Tensor, bound: float, guard: float) -> Tensor:
    """[users] min(1, bound / (norm + guard)) from squared norms."""
    return (bound / (squares.clamp_min(0).sqrt() + guard).clamp_min(1e-300)).clamp_max(1.0)


Deposit = Callable[[Parameters, Tensor, float], object]
Deposits = list[tuple[Tensor, Deposit]]


class RowTraining:
    """Trains chunks of users from the same parameters.

    Args:
        model: ``rowwise`` and ``batched``.
        training: the objective and the local optimiser.
        present: of every local step, [items, modality_columns] what the towers may read.
        task_clip_norm: bound on the norm of each task's part of a step, before the optimiser; None for no bound.
        rows: how many will be read in the first step by all users together: of few (a device alone, a large catalogue)
            the projections are computed as they are read, not for all items.
    """

    def __init__(
        self,
        model: Recommender,
        training: TrainingSection,
        present: Sequence[Tensor],
        *,
        task_clip_norm: float | None = None,
        rows: int | None = None,
    ) -> None:
        self.model, self.section, self.present = model, training, present
        self._task_bound = None if task_clip_norm is None else task_clip_norm / training.learning_rate
        self.stages = _Stages(model, training)
        parameters = {name: value.detach() for name, value in model.shared_parameters().items()}
        self.frozen = model.features.frozen
        self.rows = {name: parameters[name] for name in model.row_parameters()}
        self.shared = {name: value for name, value in parameters.items() if name not in self.rows}
        self.known = {
            (one.side, one.modality): KnownProjection(
                one, self.frozen[one.modality], self.shared, whole=rows is None or rows > model.item_count
            )
            for one in model.projections()
        }
        self._read_rows = {stage: self._rows_of(stage) for stage in ("history", "target")}
        self.reads_history = self._first_item("history", self.shared | self.rows).shape[1] > 0

    def changes(
        self,
        touched: TouchedRows,
        own: Tensor,
        last: Tensor,
        *,
        moved: Parameters | None = None,
        first_step: int = 0,
    ) -> tuple[Parameters, Parameters, Tensor]:
        """How the parameters of each user change.

        Args:
            touched: the batches.
            own: [users, p] private vectors.
            last: [users] local steps of each user.
            moved: of a single step, how far the users' parameters are from the round's: those without rows
                [users, *shape], those with rows of the touched ones [users, rows, *shape]; None where they agree.
            first_step: number of the first step among those that ``present`` was given for.

        Returns:
            The changes without rows by name [users, *shape], those of the touched rows by name [users, rows, *shape],
            and the new private vectors.
        """
        count = len(own)
        height = self.model.item_count if touched.items is None else touched.items.shape[1]
        change = {name: value.new_zeros(count, *value.shape) for name, value in self.shared.items()}
        of_rows = {name: value.new_zeros(count, height, *value.shape[1:]) for name, value in self.rows.items()}
        everything, training = change | of_rows, self.section
        optimiser = LocalOptimiser(training, everything)
        for step, places in enumerate(touched.steps):
            apart = everything if step else moved or {}
            tasks, of_own = self.gradients(first_step + step, places, touched.items, apart, own)
            # Who has no target left has no gradient either.
            if training.optimiser == "sgd" and self._task_bound is None:
                own = own - training.private_learning_rate * of_own
                for gradient, deposit in tasks[0]:
                    deposit(everything, gradient, -training.learning_rate)
                continue
            gradients = self._summed(tasks, everything)
            moves, own_move = optimiser.step(gradients, of_own, last > step)
            own = own + own_move
            for name, move in moves.items():
                everything[name].add_(move)
        return change, of_rows, own

    def _summed(self, tasks: Sequence[Deposits], like: Parameters) -> Parameters:
        """The gradients of all tasks together, each user's of each task bounded where that is asked for."""
        total: Parameters = {}
        for deposits in tasks:
            gradients = {name: torch.zeros_like(value) for name, value in like.items()}
            for gradient, deposit in deposits:
                deposit(gradients, gradient, 1.0)
            if self._task_bound is not None:
                factors = clip_factors(gradients, self._task_bound)
                for value in gradients.values():
                    value.mul_(factors.to(value.dtype).view(-1, *[1] * (value.dim() - 1)))
            total = {name: total[name] + value for name, value in gradients.items()} if total else gradients
        return total

    def gradients(
        self, step: int, places: Places, items: Tensor | None, moved: Parameters, own: Tensor
    ) -> tuple[list[Deposits], Tensor]:
        """What to deposit where, by task if tasks are bounded; and the gradients of the private vectors [users, p].

        Args:
            moved: the changes so far; empty in the first step.
        """
        traced = Traced(moved, len(own))
        batch, present = places.batch, self.present[step]
        events = places.events if items is None else items.gather(1, places.events)
        targets, rows = None, places.targets
        if rows is not None and items is not None:
            rows = rows.flatten(1)
            targets = items.gather(1, rows)
        shared = self.traced_shared(traced, batch)
        history = self.side(traced, shared, "history", present, events, places.events)
        target, bias = self.side(traced, shared, "target", present, targets, rows)
        if places.targets is not None and places.targets.dim() == 3:
            target, bias = target.view(*places.targets.shape, -1), bias.view(places.targets.shape)
        vectors = own.detach().requires_grad_()
        batch = batch._replace(histories=batch.histories._replace(user_vectors=vectors))
        losses = self.stages.run(shared, "losses", ItemTables(history, target, bias), history, batch)
        tasks, total = list(losses.values()), torch.zeros_like(own)
        if self._task_bound is None:
            tasks = [sum(tasks, torch.zeros(()))]
        found = []
        for loss in tasks:
            if not loss.requires_grad:
                found.append([])
                continue
            leaves = [*traced.leaves, vectors]
            *gradients, of_own = torch.autograd.grad(loss.sum(), leaves, allow_unused=True, retain_graph=len(tasks) > 1)
            pairs = zip(gradients, traced.deposits, strict=True)
            found.append([(gradient, deposit) for gradient, deposit in pairs if gradient is not None])
            if of_own is not None:
                total = total + of_own
        return found, total

    def traced_shared(self, traced: Traced, batch: TrainingBatch) -> Parameters:
        """The parameters that are neither rows nor known projections.

        Own content passes the history's projections too: they are traced as a whole then.
        """
        self._usable = {
            key: one for key, one in self.known.items() if not (batch.histories.own and key[0] == "history")
        }
        passed = {one.name for one in self._usable.values()}
        return {name: traced.shared(name, value) for name, value in self.shared.items() if name not in passed}

    def side(
        self,
        traced: Traced,
        shared: Parameters,
        stage: str,
        present: Tensor,
        items: Tensor | None,
        rows: Tensor | None,
    ) -> Any:
        """A side of the tables for ``items`` [users, n], which lie at ``rows`` of the touched ones; None: for all."""
        of_rows = {name: traced.rows(name, self.rows[name], items, rows) for name in self._read_rows[stage]}
        values: dict[str, Values] = {}
        for modality, frozen in self.frozen.items():
            projection = self._usable.get((stage, modality))
            if projection is not None:
                values[modality] = KnownProduct(traced.product(projection, items))
            else:
                values[modality] = frozen if items is None else functional.embedding(items, frozen)
        there = present if items is None else functional.embedding(items, present)
        return self.stages.run(shared | of_rows, stage, values, there)

    def _rows_of(self, stage: str) -> tuple[str, ...]:
        """The row parameters that a stage reads."""
        leaves = {name: value[:1].clone().requires_grad_() for name, value in self.rows.items()}
        out = self._first_item(stage, self.shared | leaves)
        total = sum((value.sum() for value in (out if isinstance(out, tuple) else (out,))), torch.zeros(()))
        if not leaves or not total.requires_grad:
            return ()
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        return tuple(name for name, gradient in zip(leaves, found, strict=True) if gradient is not None)

    def _first_item(self, stage: str, parameters: Mapping[str, Tensor]) -> Any:
        """A side of the tables for one item."""
        rows = {name: value[:1] for name, value in parameters.items() if name in self.rows}
        first = {name: value[:1] for name, value in self.frozen.items()}
        return self.stages.run({**parameters, **rows}, stage, first, self.model.present(None)[:1])


@dataclass(frozen=True)
class OfParameter:
    """The deposit of a parameter without rows, whose gradient [users, *shape] it is.

    Attributes:
        name: of the parameter.
    """

    name: str

    def __call__(self, into: Parameters, gradient: Tensor, factor: float) -> None:
        into[self.name].add_(gradient, alpha=factor)


@dataclass(frozen=True, eq=False)
class OfProduct:
    """The deposit of a projection, whose gradient is one product with the features.

    Attributes:
        name: of the parameter [width, d].
        values: [users, n, width] the features.
        scale: of the product.
    """

    name: str
    values: Tensor
    scale: float

    def __call__(self, into: Parameters, gradient: Tensor, factor: float) -> None:
        into[self.name].baddbmm_(self.values.mT, gradient, alpha=factor * self.scale)

    def squares(self, gradient: Tensor) -> Tensor:
        """[users] float64 squared norms of the parameter's gradients, from those of the product [users, n, d]."""
        if gradient.shape[1] > 2 * gradient.shape[2]:
            return squared_norms(torch.bmm(self.values.mT, gradient)) * self.scale**2
        both = torch.bmm(self.values, self.values.mT).double() * torch.bmm(gradient, gradient.mT)
        return both.sum((1, 2)) * self.scale**2


class KnownProjection:
    """A projection of frozen features, and its product with those of all items.

    Args:
        whole: compute the product for all items now.
    """

    def __init__(
        self, projection: Projection, values: Tensor, parameters: Mapping[str, Tensor], *, whole: bool = True
    ) -> None:
        self.name, self.values, self.scale = projection.parameter, values, projection.scale
        self._parameter = parameters[self.name]
        self._product = self._projected(values) if whole else None

    @property
    def product(self) -> Tensor:
        """[items, d] of all items."""
        return self._projected(self.values) if self._product is None else self._product

    def at(self, items: Tensor, values: Tensor) -> Tensor:
        """[*items, d] of some items and their ``values``; a tensor of its own."""
        return self._projected(values) if self._product is None else functional.embedding(items, self._product)

    def _projected(self, values: Tensor) -> Tensor:
        return (values @ self._parameter) * self.scale


class Traced:
    """The tensors that a step is differentiated by, and where their gradients belong.

    Args:
        moved: the changes of the users' parameters so far, by name; empty while all users agree.
        users: how many.
    """

    def __init__(self, moved: Parameters, users: int) -> None:
        self._moved, self._users = moved, users
        self.names: list[str] = []
        self.leaves: list[Tensor] = []
        self.deposits: list[Deposit] = []

    def shared(self, name: str, value: Tensor) -> Tensor:
        """[users, *shape] a parameter of every user."""
        now = value.expand(self._users, *value.shape) if name not in self._moved else value + self._moved[name]
        return self._trace(name, now, OfParameter(name))

    def rows(self, name: str, table: Tensor, items: Tensor | None, rows: Tensor | None) -> Tensor:
        """[users, n, *shape] the rows of ``items`` [users, n], which lie at ``rows`` of the users' touched ones."""
        if items is None or rows is None:
            return self.shared(name, table)
        now = table.index_select(0, items.flatten()).view(*items.shape, *table.shape[1:])
        change = self._moved.get(name)

        def flat(height: int) -> Tensor:
            return (rows + torch.arange(self._users)[:, None] * height).flatten()

        def deposit(into: Parameters, gradient: Tensor, factor: float) -> None:
            total = into[name]
            total.flatten(0, 1).index_add_(0, flat(total.shape[1]), gradient.flatten(0, 1), alpha=factor)

        if change is not None:
            now += change.flatten(0, 1).index_select(0, flat(change.shape[1])).view_as(now)
        return self._trace(name, now, deposit)

    def product(self, projection: KnownProjection, items: Tensor | None) -> Tensor:
        """[users, n, d] the projected features of ``items`` [users, n], or of all."""
        if items is None:
            values = projection.values.expand(self._users, *projection.values.shape)
            now = projection.product.expand(self._users, *projection.product.shape)
        else:
            values = functional.embedding(items, projection.values)
            now = projection.at(items, values)
        name, scale = projection.name, projection.scale
        if name in self._moved:
            add = torch.baddbmm if items is None else Tensor.baddbmm_  # rows were gathered: a tensor of their own
            now = add(now, values, self._moved[name], alpha=scale)
        return self._trace(name, now, OfProduct(name, values, scale))

    def _trace(self, name: str, now: Tensor, deposit: Deposit) -> Tensor:
        leaf = now.detach().requires_grad_()
        self.names.append(name)
        self.leaves.append(leaf)
        self.deposits.append(deposit)
        return leaf


class _Stages(torch.nn.Module):
    """The stages of a model as one module, so that ``functional_call`` can substitute parameters in each."""

    def __init__(self, model: Recommender, training: TrainingSection) -> None:
        super().__init__()
        self.model = model
        self.training_section = training

    def run(self, parameters: Mapping[str, Tensor], stage: str, *arguments: Any) -> Any:
        prefixed = {f"model.{name}": value for name, value in parameters.items()}
        return functional_call(self, prefixed, (stage, *arguments))

    def forward(self, stage: str, *arguments: Any) -> Any:
        if stage == "history":
            return self.model.history_side(*arguments)
        if stage == "target":
            return self.model.target_side(*arguments)
        if stage == "of the model":  # a method of it, given first
            method, *given = arguments
            return method(*given)
        if stage == "states":
            return self.model.user_states(*arguments)
        if stage == "losses of states":
            return losses_of_states(self.model, self.training_section, *arguments)
        if stage == "action":
            return action_losses(self.model, self.training_section, *arguments)
        return task_losses(self.model, self.training_section, *arguments)
