"""Local training of many users at once: the same update as ``reference``, as batched tensor programs.

Paths, chosen by what is asked:

- a bound on each task: gradients per task and user, on touched rows;
- one step, no clipping: the sum of the users' losses is differentiated once (a sum of gradients is the gradient of
  the sum);
- one clipped step of towers that are linear in their parameters, under the full softmax: norms from Gram matrices
  (``linear``), then the clipped sum as one product of large matrices;
- one clipped step of other towers that read most items: gradients of each user at the item tables all users share,
  pulled back for the norm alone (``one_step``);
- otherwise gradients per user (``torch.func.vmap``), through the touched rows alone (``rows``) where an item's tables
  depend on that item alone; in the first step the weights are still everybody's and are not copied;
- where items depend on each other (graph convolution) or on trained encoders: one step pulls the gradients of the item
  tables back through the towers, whose forward pass all users share; several steps copy all parameters per user.

Users are sorted by work and taken in chunks, so padding stays small and no per-user result is kept.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmfed.models.base import ItemTables, LinearTables, Recommender
from mmfed.training.batch import Batches, Histories, TrainingBatch, local_steps, modality_mask, objective_of
from mmfed.training.linear import LinearSums, parameter_totals
from mmfed.training.objective import check_tasks, user_losses
from mmfed.training.one_step import OneStep
from mmfed.training.rows import RowTraining, clip_factors, touched_rows
from mmfed.training.update import CohortUpdate, LocalWork
from mmfed.training.whole import SequenceGradients, several_steps
from mmfed.types import IntArray

SUMMED_CHUNK = 32
LINEAR_CHUNK, LINEAR_BYTES = 16, 8e6
ONE_STEP_CHUNK, ONE_STEP_BYTES = 16, 6e6
WHOLE_CHUNK = 16
WHOLE_STEPS_CHUNK = 8
ROWS_CHUNK, ROWS_BYTES = 64, 12e6  # most users at a time, and about what stays near the processor

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
    training = work.training
    steps = local_steps(histories, training)
    check_tasks(model, work)
    single, clip_norm = int(steps.max()) == 1 and training.optimiser != "adam", work.clip_norm
    if work.task_clip_norm is not None:
        return _by_rows(model, parameters, histories, user_vectors, work, steps)
    if single and clip_norm is None:
        return _summed(model, histories, user_vectors, work)
    if single and clip_norm is not None and histories.own is None and objective_of(model, training) == "softmax":
        linear = model.linear_tables(model.present(_mask(model, work, 0)))
        if linear is not None:
            return _linear(model, linear, histories, user_vectors, work, clip_norm)
    if single and clip_norm is not None and model.rowwise and model.batched and _reads_most(model, work):
        return _one_step(model, histories, user_vectors, work, clip_norm)
    if model.rowwise and model.batched:
        return _by_rows(model, parameters, histories, user_vectors, work, steps)
    return _whole(model, parameters, histories, user_vectors, work, steps)


def _zeros(parameters: Mapping[str, Tensor]) -> Parameters:
    return {name: torch.zeros_like(value, dtype=torch.float64) for name, value in parameters.items()}


def _chunks(histories: Histories, size: int, steps: IntArray | None = None) -> Iterator[IntArray]:
    """Users in chunks of ``size``, sorted by number of steps, then by length."""
    keys = (histories.lengths,) if steps is None else (histories.lengths, steps)
    order = np.lexsort(keys)
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _batches(model: Recommender, histories: Histories, dtype: torch.dtype, work: LocalWork) -> Batches:
    return Batches(
        histories,
        model=model,
        section=work.training,
        seed=work.seed,
        round_number=work.round_number,
        dtype=dtype,
    )


def _batch(model: Recommender, histories: Histories, user_vectors: Tensor, work: LocalWork) -> TrainingBatch:
    return _batches(model, histories, user_vectors.dtype, work).at(work.first_step, user_vectors)


def _mask(model: Recommender, work: LocalWork, step: int) -> Tensor | None:
    number = work.first_step + step
    return modality_mask(model, work.training, seed=work.seed, round_number=work.round_number, step=number)


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
        batch = _batch(model, histories.take(index), user_vectors[index], work)
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
    total = parameter_totals(tables, table_totals, shared, total)
    rate = work.training.learning_rate
    return CohortUpdate({name: value * -rate for name, value in total.items()}, len(histories), vectors)


def _linear(
    model: Recommender,
    linear: LinearTables,
    histories: Histories,
    user_vectors: Tensor,
    work: LocalWork,
    clip_norm: float,
) -> CohortUpdate:
    """One clipped step of linear towers under the full softmax."""
    training, vectors = work.training, user_vectors.clone()
    local = copy.deepcopy(model)
    tables = local.item_tables(_mask(model, work, 0))
    known = ItemTables(*(table.detach() for table in tables))
    rate = training.learning_rate
    with torch.no_grad():
        guard = work.norm_guard / rate
        parameters = {name: value.detach() for name, value in local.shared_parameters().items()}
        sums = LinearSums(parameters, known, linear, bound=clip_norm / rate, guard=guard)
        bytes_of_a_user = training.positions * known.bias.nbytes
        size = min(max(LINEAR_BYTES / bytes_of_a_user, 4), LINEAR_CHUNK)
        for index in _chunks(histories, int(size)):
            of_own = sums.add(_batch(model, histories.take(index), user_vectors[index], work))
            vectors[index] -= training.private_learning_rate * of_own
    total = parameter_totals(tables, sums.table_totals, local.shared_parameters(), sums.head_totals)
    return CohortUpdate({name: value * -rate for name, value in total.items()}, len(histories), vectors, sums.within)


def _by_rows(
    model: Recommender,
    parameters: Parameters,
    histories: Histories,
    user_vectors: Tensor,
    work: LocalWork,
    steps: IntArray,
) -> CohortUpdate:
    """Any number of steps on touched rows, each user's change clipped as a whole."""
    total, vectors, within = _zeros(parameters), user_vectors.clone(), 0
    present = [model.present(_mask(model, work, step)) for step in range(int(steps.max()))]
    rows = len(histories) * _rows_of_a_step(model, work)
    training = RowTraining(model, work.training, present, task_clip_norm=work.task_clip_norm, rows=rows)
    for index in _chunks(histories, _rows_chunk(model, work), steps):
        chosen, own, last = histories.take(index), user_vectors[index], torch.from_numpy(steps[index])
        batches = _batches(model, chosen, own.dtype, work)
        taken = [batches.at(work.first_step + step, own) for step in range(int(last.max()))]
        touched = touched_rows(taken, model.item_count, history=training.reads_history)
        change, of_rows, vectors[index] = training.changes(touched, own, last)
        factors = _factors(change | of_rows, work)
        within += _unscaled(factors, work)
        for name, value in change.items():
            total[name] += torch.tensordot(factors.to(value.dtype), value, dims=1)
        for name, value in of_rows.items():
            if touched.items is None:
                total[name] += torch.tensordot(factors.to(value.dtype), value, dims=1)
            else:
                scaled = value * factors.to(value.dtype).view(-1, *[1] * (value.dim() - 1))
                total[name].index_add_(0, touched.items.flatten(), scaled.flatten(0, 1).double())
    return CohortUpdate(total, len(histories), vectors, within)


def _rows_of_a_step(model: Recommender, work: LocalWork) -> int:
    """Target rows that a user's step reads, about."""
    training, objective = work.training, objective_of(model, work.training)
    if objective == "softmax":
        return model.item_count
    return training.positions * (1 if objective == "mse" else 1 + training.negatives)


def _reads_most(model: Recommender, work: LocalWork) -> bool:
    """Whether a step scores about as many candidates as there are items, and no parameter is in both sides."""
    objective = objective_of(model, work.training)
    if objective == "mse":
        return False
    candidates = work.training.positions * (1 + work.training.negatives)
    return objective == "softmax" or candidates >= model.item_count / 2


def _one_step(
    model: Recommender, histories: Histories, user_vectors: Tensor, work: LocalWork, clip_norm: float
) -> CohortUpdate:
    """One clipped step through whole item tables."""
    training, vectors = work.training, user_vectors.clone()
    bound, guard = clip_norm / training.learning_rate, work.norm_guard / training.learning_rate
    sums = OneStep(model, training, model.present(_mask(model, work, 0)), bound=bound, guard=guard)
    size = min(max(ONE_STEP_BYTES / sums.bytes_of_a_user, 2), ONE_STEP_CHUNK)
    for index in _chunks(histories, int(size)):
        of_own = sums.add(_batch(model, histories.take(index), user_vectors[index], work))
        vectors[index] -= training.private_learning_rate * of_own
    rate = training.learning_rate
    total = {name: value * -rate for name, value in sums.total().items()}
    return CohortUpdate({name: total[name] for name in model.shared_parameters()}, len(histories), vectors, sums.within)


def _rows_chunk(model: Recommender, work: LocalWork) -> int:
    """Users at a time, by what their rows take in memory."""
    rows = _rows_of_a_step(model, work)
    width = sum(value.shape[1] for value in model.features.values) + 6 * model.dimensions
    return int(min(max(ROWS_BYTES / (4 * max(rows * width, 1)), 8), ROWS_CHUNK))


def _whole(
    model: Recommender,
    parameters: Parameters,
    histories: Histories,
    user_vectors: Tensor,
    work: LocalWork,
    steps: IntArray,
) -> CohortUpdate:
    """Any number of steps on whole tables, each user's change clipped as a whole."""
    total, within = _zeros(parameters), 0
    vectors = user_vectors.clone()
    training = work.training
    several = int(steps.max()) > 1 or training.optimiser == "adam"
    masks = [_mask(model, work, step) for step in range(int(steps.max()))]
    gradients = SequenceGradients(model, parameters, training, masks[0])
    for index in _chunks(histories, WHOLE_STEPS_CHUNK if several else WHOLE_CHUNK, steps):
        chosen, own, last = histories.take(index), user_vectors[index], torch.from_numpy(steps[index])
        if several:
            batches = _batches(model, chosen, own.dtype, work)
            taken = (
                (batches.at(work.first_step + step, own), masks[step], last > step) for step in range(int(last.max()))
            )
            change, own = several_steps(model, parameters, own, training, taken)
        else:
            shared, private = gradients(_batch(model, chosen, own, work))
            change = {name: value * -training.learning_rate for name, value in shared.items()}
            own = own - training.private_learning_rate * private
        factors = _factors(change, work)
        within += _unscaled(factors, work)
        for name, value in change.items():
            total[name] += torch.tensordot(factors.to(value.dtype), value, dims=1)
        vectors[index] = own
    return CohortUpdate(total, len(histories), vectors, within)


def _factors(change: Parameters, work: LocalWork) -> Tensor:
    """[users] what each user's change is multiplied by."""
    if work.clip_norm is None:
        return torch.ones(len(next(iter(change.values()))), dtype=torch.float64)
    return clip_factors(change, work.clip_norm, guard=work.norm_guard)


def _unscaled(factors: Tensor, work: LocalWork) -> int:
    """How many users were within the clip norm."""
    return 0 if work.clip_norm is None else int((factors >= 1).sum())
