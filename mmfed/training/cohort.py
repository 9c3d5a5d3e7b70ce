"""Local training of many users at once: the same update as ``reference``, as batched tensor programs.

Three paths, chosen by what is asked:

- one step, no clipping: the sum of the users' losses is differentiated once (a sum of gradients is the gradient of
  the sum);
- one step, clipping: gradients per user with respect to the item tables and the state's own parameters
  (``torch.func.vmap``), pulled back through the item towers, whose forward pass all users share;
- several steps: every user has a copy of the parameters along a batch axis.

Users are sorted by length and worked on in chunks, so padding stays small and no per-user result is kept.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vjp, vmap
from torch.nn import functional
from torch.utils._pytree import tree_map

from mmfed.config import TrainingSection
from mmfed.models.base import ItemTables, Recommender
from mmfed.training.batch import Histories, TrainingBatch, modality_mask, training_batch
from mmfed.training.objective import user_losses
from mmfed.training.update import CohortUpdate, LocalWork
from mmfed.types import IntArray

SUMMED_CHUNK = 32
PER_USER_CHUNK = 16
STEPS_CHUNK = 8

Parameters = dict[str, Tensor]


def train_cohort(model: Recommender, histories: Histories, user_vectors: Tensor, work: LocalWork) -> CohortUpdate:
    """Sum of the users' (clipped) updates.

    Args:
        model: holds the global shared parameters; not changed.
        histories: one sequence per user; an empty one gives a zero update.
        user_vectors: [users, p] private vectors; p is 0 for models without.

    Returns:
        The update, equal to ``reference.train_users`` up to rounding.
    """
    parameters = {name: value.detach() for name, value in model.shared_parameters().items()}
    if not len(histories):
        return CohortUpdate(_zeros(parameters), 0, user_vectors.clone())
    if work.training.steps == 1 and work.clip_norm is None:
        return _summed(model, histories, user_vectors, work)
    return _per_user(model, parameters, histories, user_vectors, work)


class _Program(torch.nn.Module):
    """The model's two stages as one module, so that ``functional_call`` can substitute parameters in either."""

    def __init__(self, model: Recommender, training: TrainingSection) -> None:
        super().__init__()
        self.model = model
        self.training_section = training

    def tables(self, parameters: Parameters, mask: Tensor | None) -> ItemTables:
        return functional_call(self, self._prefixed(parameters), ("tables", mask))

    def losses(self, parameters: Parameters, tables: ItemTables, vectors: Tensor, batch: TrainingBatch) -> Tensor:
        return functional_call(self, self._prefixed(parameters), ("losses", tables, vectors, batch))

    def forward(self, stage: str, *arguments: Any) -> Any:
        if stage == "tables":
            return self.model.item_tables(*arguments)
        return user_losses(self.model, self.training_section, *arguments)

    def _prefixed(self, parameters: Parameters) -> Parameters:
        return {f"model.{name}": value for name, value in parameters.items()}


def _zeros(parameters: Mapping[str, Tensor]) -> Parameters:
    return {name: torch.zeros_like(value, dtype=torch.float64) for name, value in parameters.items()}


def _chunks(histories: Histories, size: int) -> Iterator[IntArray]:
    order = np.argsort(histories.lengths, kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _batch(model: Recommender, histories: Histories, user_vectors: Tensor, work: LocalWork, step: int) -> TrainingBatch:
    return training_batch(
        histories,
        model=model,
        section=work.training,
        seed=work.seed,
        round_number=work.round_number,
        step=step,
        user_vectors=user_vectors,
        dtype=user_vectors.dtype,
    )


def _mask(model: Recommender, work: LocalWork, step: int) -> Tensor | None:
    return modality_mask(model, work.training, seed=work.seed, round_number=work.round_number, step=step)


def _summed(model: Recommender, histories: Histories, user_vectors: Tensor, work: LocalWork) -> CohortUpdate:
    """One step without clipping."""
    local = copy.deepcopy(model)
    shared = local.shared_parameters()
    tables = local.item_tables(_mask(model, work, 0))
    leaves = ItemTables(*(table.detach().requires_grad_() for table in tables))
    table_totals = [torch.zeros_like(table, dtype=torch.float64) for table in leaves]
    total = _zeros(shared)
    vectors = user_vectors.clone()
    for index in _chunks(histories, SUMMED_CHUNK):
        batch = _batch(model, histories.take(index), user_vectors[index], work, 0)
        own = batch.histories.user_vectors.requires_grad_()
        gathered = functional.embedding(batch.histories.items, leaves.history)
        loss = user_losses(local, work.training, leaves, gathered, batch).sum()
        inputs = [*leaves, own, *shared.values()]
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        for accumulated, gradient in zip([*table_totals, None, *total.values()], gradients, strict=True):
            if accumulated is not None and gradient is not None:
                accumulated += gradient
        if gradients[len(leaves)] is not None:
            vectors[index] -= work.training.private_learning_rate * gradients[len(leaves)]
    pulled = torch.autograd.grad(
        tables,
        list(shared.values()),
        [value.to(table.dtype) for value, table in zip(table_totals, tables, strict=True)],
        allow_unused=True,
    )
    for name, gradient in zip(shared, pulled, strict=True):
        if gradient is not None:
            total[name] += gradient
        total[name] *= -work.training.learning_rate
    return CohortUpdate(total, len(histories), vectors)


def _per_user(
    model: Recommender, parameters: Parameters, histories: Histories, user_vectors: Tensor, work: LocalWork
) -> CohortUpdate:
    """Any number of steps, each user's change clipped as a whole."""
    total = _zeros(parameters)
    vectors = user_vectors.clone()
    several = work.training.steps > 1
    gradients = SequenceGradients(model, parameters, work.training, _mask(model, work, 0))
    for index in _chunks(histories, STEPS_CHUNK if several else PER_USER_CHUNK):
        chosen, own = histories.take(index), user_vectors[index]
        if several:
            change, own = _several_steps(model, parameters, chosen, own, work)
        else:
            shared, private = gradients(_batch(model, chosen, own, work, 0))
            change = {name: value * -work.training.learning_rate for name, value in shared.items()}
            own = own - work.training.private_learning_rate * private
        factors = _clip_factors(change, work.clip_norm)
        for name, value in change.items():
            total[name] += torch.tensordot(factors.to(value.dtype), value, dims=1)
        vectors[index] = own
    return CohortUpdate(total, len(histories), vectors)


def _clip_factors(change: Parameters, clip_norm: float | None) -> Tensor:
    """[users] float64, at most 1, so that each user's scaled change has norm ≤ ``clip_norm``; 1 for a zero change."""
    squares = sum((value.flatten(1).square().sum(1, dtype=torch.float64) for value in change.values()), torch.zeros(()))
    if clip_norm is None:
        return torch.ones_like(squares)
    return (clip_norm / squares.sqrt().clamp_min(1e-300)).clamp_max(1.0)


class SequenceGradients:
    """Gradients of each sequence's loss with respect to the shared parameters.

    The forward pass of the item towers is shared; what differs between users is differentiated per user.

    Args:
        model: the recommender.
        parameters: values of the shared parameters by name.
        training: the objective.
        mask: of the item towers (modality dropout).
    """

    def __init__(
        self, model: Recommender, parameters: Parameters, training: TrainingSection, mask: Tensor | None = None
    ) -> None:
        self._program = _Program(model, training)
        self._parameters = parameters
        pulled: tuple[Any, ...] = vjp(lambda values: self._program.tables(values, mask), parameters)
        self._tables: ItemTables = pulled[0]
        self._pull_back = pulled[1]
        self._head_names: tuple[str, ...] | None = None

    def __call__(self, batch: TrainingBatch) -> tuple[Parameters, Tensor]:
        """Gradients by parameter name, each [sequences, *shape], and of the private vectors [sequences, p]."""
        tables, items = self._tables, batch.histories.items
        count, item_count = items.shape[0], tables.history.shape[0]
        head = {name: self._parameters[name] for name in self._head(batch)}

        def loss(
            head: Parameters, target: Tensor, bias: Tensor, vectors: Tensor, own: Tensor, one: TrainingBatch
        ) -> Tensor:
            alone: TrainingBatch = tree_map(lambda tensor: tensor[None], one)
            alone = alone._replace(histories=alone.histories._replace(user_vectors=own[None]))
            tables = ItemTables(self._tables.history, target, bias)
            return self._program.losses(self._parameters | head, tables, vectors[None], alone)[0]

        gathered = functional.embedding(items, tables.history)
        per_user = vmap(grad(loss, argnums=(0, 1, 2, 3, 4)), in_dims=(None, None, None, 0, 0, 0))
        of_head, of_target, of_bias, of_vectors, of_own = per_user(
            head, tables.target, tables.bias, gathered, batch.histories.user_vectors, batch
        )
        of_history = gathered.new_zeros(count * item_count, gathered.shape[2])
        rows = (items + torch.arange(count)[:, None] * item_count).flatten()
        of_history.index_add_(0, rows, of_vectors.flatten(0, 1))
        (shared,) = vmap(self._pull_back)(ItemTables(of_history.view(count, item_count, -1), of_target, of_bias))
        for name, value in of_head.items():
            shared[name] = shared[name] + value
        return shared, of_own

    def _head(self, batch: TrainingBatch) -> tuple[str, ...]:
        """Names of the parameters that the loss reads besides the tables (found once)."""
        if self._head_names is None:
            leaves = {name: value.detach().requires_grad_() for name, value in self._parameters.items()}
            one: TrainingBatch = tree_map(lambda tensor: tensor[:1], batch)
            vectors = functional.embedding(one.histories.items, self._tables.history)
            loss = self._program.losses(leaves, self._tables, vectors, one).sum()
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            self._head_names = tuple(name for name, value in zip(leaves, found, strict=True) if value is not None)
        return self._head_names


def _several_steps(
    model: Recommender, parameters: Parameters, histories: Histories, user_vectors: Tensor, work: LocalWork
) -> tuple[Parameters, Tensor]:
    """Each user's change [users, *shape] after all local steps, and the new private vectors."""
    program = _Program(model, work.training)
    count = len(histories)
    start = {name: value.expand(count, *value.shape) for name, value in parameters.items()}
    current, own = start, user_vectors

    def loss(parameters: Parameters, own: Tensor, one: TrainingBatch, mask: Tensor | None) -> Tensor:
        alone: TrainingBatch = tree_map(lambda tensor: tensor[None], one)
        alone = alone._replace(histories=alone.histories._replace(user_vectors=own[None]))
        tables = program.tables(parameters, mask)
        return program.losses(parameters, tables, tables.history[alone.histories.items], alone)[0]

    for step in range(work.training.steps):
        batch = _batch(model, histories, own, work, step)
        of_parameters, of_own = vmap(grad(loss, argnums=(0, 1)), in_dims=(0, 0, 0, None))(
            current, own, batch, _mask(model, work, step)
        )
        current = {name: value - work.training.learning_rate * of_parameters[name] for name, value in current.items()}
        own = own - work.training.private_learning_rate * of_own
    return {name: value - start[name] for name, value in current.items()}, own
