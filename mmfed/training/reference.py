"""The definition of local training, one user at a time: what devices run, and what ``cohort`` must equal."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from mmfed.models.base import Recommender
from mmfed.training.batch import Histories, local_steps, modality_mask, training_batch
from mmfed.training.local_optimiser import torch_optimiser
from mmfed.training.objective import check_tasks, task_losses
from mmfed.training.update import CohortUpdate, LocalWork


def train_user(
    model: Recommender, history: Histories, user_vector: Tensor, work: LocalWork
) -> tuple[dict[str, Tensor], Tensor]:
    """``unclipped``, then the change clipped as a whole where the mode asks for it."""
    change, vector = unclipped(model, history, user_vector, work)
    return clipped(change, work.clip_norm)[0], vector


def unclipped(
    model: Recommender, history: Histories, user_vector: Tensor, work: LocalWork
) -> tuple[dict[str, Tensor], Tensor]:
    """Train one user's copy of the model and return the change of its shared parameters.

    Args:
        model: holds the global shared parameters; not changed.
        history: exactly one sequence.
        user_vector: [p] the user's private vector.

    Returns:
        The change by parameter name (float64), and the new private vector [p].
    """
    check_tasks(model, work)
    local = copy.deepcopy(model)
    shared = local.shared_parameters()
    vector = user_vector.clone().requires_grad_()
    optimiser = torch_optimiser(
        work.training.optimiser,
        [
            {"params": list(shared.values()), "lr": work.training.learning_rate},
            {"params": [vector], "lr": work.training.private_learning_rate},
        ],
    )
    for step in range(int(local_steps(history, work.training)[0])):
        batch = training_batch(
            history,
            model=model,
            section=work.training,
            seed=work.seed,
            round_number=work.round_number,
            step=step,
            user_vectors=vector.detach()[None],
            dtype=vector.dtype,
        )
        batch = batch._replace(histories=batch.histories._replace(user_vectors=vector[None]))
        mask = modality_mask(model, work.training, seed=work.seed, round_number=work.round_number, step=step)
        tables = local.item_tables(mask)
        losses = task_losses(local, work.training, tables, tables.history[batch.histories.items], batch)
        optimiser.zero_grad()
        if work.task_clip_norm is None:
            sum(losses.values(), torch.zeros(())).sum().backward()
        else:
            _clip_each(losses, shared, vector, work.task_clip_norm / work.training.learning_rate)
        optimiser.step()
    before = model.shared_parameters()
    change = {name: parameter.detach().double() - before[name].detach().double() for name, parameter in shared.items()}
    return change, vector.detach()


def clipped(change: dict[str, Tensor], clip_norm: float | None) -> tuple[dict[str, Tensor], bool]:
    """One user's whole change with a norm of at most ``clip_norm`` (None: as it is), and whether it was within."""
    if clip_norm is None:
        return change, False
    norm = float(
        torch.sqrt(sum((value.square().sum() for value in change.values()), torch.zeros((), dtype=torch.float64)))
    )
    factor = min(1.0, clip_norm / norm) if norm > 0 else 1.0
    return {name: value * factor for name, value in change.items()}, factor >= 1.0


def _clip_each(losses: dict[str, Tensor], shared: dict[str, nn.Parameter], vector: Tensor, bound: float) -> None:
    """Gradients of the tasks summed, each task's scaled to a norm of at most ``bound`` (the private vector's not)."""
    leaves = [*shared.values(), vector]
    for loss in losses.values():
        found = torch.autograd.grad(loss.sum(), leaves, retain_graph=True, allow_unused=True)
        squares = [one.double().square().sum() for one in found[:-1] if one is not None]
        norm = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
        factor = min(1.0, bound / norm) if norm > 0 else 1.0
        for leaf, gradient in zip(leaves, found, strict=True):
            if gradient is not None:
                part = gradient if leaf is vector else gradient * factor
                leaf.grad = part if leaf.grad is None else leaf.grad + part


def train_users(model: Recommender, histories: Histories, user_vectors: Tensor, work: LocalWork) -> CohortUpdate:
    """``train_user`` for each sequence in turn, summed."""
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in model.shared_parameters().items()}
    vectors, within = user_vectors.clone(), 0
    for index in range(len(histories)):
        history = histories.take(np.array([index]))
        raw, vectors[index] = unclipped(model, history, user_vectors[index], work)
        change, inside = clipped(raw, work.clip_norm)
        within += inside
        for name, value in change.items():
            total[name] += value
    return CohortUpdate(total, len(histories), vectors, within)
