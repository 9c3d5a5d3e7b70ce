"""Training objectives: the loss of each user of a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mmfed.config import TrainingSection
from mmfed.errors import ExitCode, MmfedError
from mmfed.models.base import ItemTables, Recommender
from mmfed.training.batch import TrainingBatch, objective_of
from mmfed.training.update import LocalWork


def user_losses(
    model: Recommender, section: TrainingSection, tables: ItemTables, vectors: Tensor, batch: TrainingBatch
) -> Tensor:
    """The loss of each user, all tasks together; see ``task_losses``."""
    return sum(task_losses(model, section, tables, vectors, batch).values(), batch.weights.new_zeros(()))


def task_losses(
    model: Recommender, section: TrainingSection, tables: ItemTables, vectors: Tensor, batch: TrainingBatch
) -> dict[str, Tensor]:
    """The loss of each user by task of the device: the mean over the user's positions.

    Negatives are items the user had not touched before the position; later items of the user, and the held-out ones of
    evaluation, are negatives like any other (no knowledge of the future).

    Args:
        tables: the item tables.
        vectors: [users, events, d] history vectors of the batch's events.

    Returns:
        [users] by name, "preference" first; 0 for a user without a position.
    """
    states = model.user_states(vectors, batch.histories)
    losses = {"preference": _losses(model, section, tables, states, batch)}
    if section.action_weight:
        logits = model.action_logits(states, tables, batch.targets)
        if logits is not None:
            logged = torch.log_softmax(logits, dim=-1).gather(2, batch.actions.clamp_min(0)[:, :, None]).squeeze(2)
            losses["action"] = -section.action_weight * logged * (batch.actions >= 0)
    return {name: (loss * batch.weights).sum(1) for name, loss in losses.items()}


def check_tasks(model: Recommender, work: LocalWork) -> None:
    """Refuse clipping by task for a model that has one task.

    Raises:
        MmfedError: says what has several.
    """
    if work.task_clip_norm is None:
        return
    if not (model.rowwise and model.batched):
        raise MmfedError(
            ExitCode.CONFIG,
            "privacy.task_clip_norm: no bound by task where items depend on each other or encoders are trained.",
            "leave it out, or take mmfnet with encoders.*.training = 'frozen'.",
        )
    if not (model.acts and work.training.action_weight):
        raise MmfedError(
            ExitCode.CONFIG,
            "privacy.task_clip_norm: this model has one task on the device, which clip_norm bounds already.",
            "leave it out, or set model.name = 'mmfnet' and training.action_weight above 0.",
        )


def _losses(
    model: Recommender, section: TrainingSection, tables: ItemTables, states: Tensor, batch: TrainingBatch
) -> Tensor:
    """[users, states] of the main task."""
    positions, objective = batch.histories.positions, objective_of(model, section)
    if objective == "mse":
        predicted = model.rating(model.score_candidates(states, tables, batch.targets[:, :, None]).squeeze(2))
        return (predicted - batch.ratings).square()
    if objective == "softmax":
        scores = model.score(states, tables)
        seen = batch.first_seen[:, None, :] < positions[:, :, None]
        target = scores.gather(2, batch.targets[:, :, None]).squeeze(2)
        # The target itself may have been seen (repeat purchase): its term is put back after masking.
        masked = scores.masked_fill(seen, float("-inf"))
        seen_target = seen.gather(2, batch.targets[:, :, None]).squeeze(2)
        normaliser = torch.logsumexp(masked, dim=2)
        normaliser = torch.where(seen_target, torch.logaddexp(normaliser, target), normaliser)
        return normaliser - target
    candidates = torch.cat([batch.targets[:, :, None], batch.negatives], dim=2)
    scores = model.score_candidates(states, tables, candidates)
    usable = batch.usable
    positive, negative = scores[:, :, 0], scores[:, :, 1:]
    if section.negative_sampling == "hard":
        order = negative.detach().masked_fill(~usable, float("-inf"))
        hardest = order.topk(section.negatives, dim=2).indices
        negative, usable = negative.gather(2, hardest), usable.gather(2, hardest)
    share = usable.to(scores.dtype) / usable.sum(2, keepdim=True).clamp_min(1)
    if objective == "bpr":
        return (functional.softplus(negative - positive[:, :, None]) * share).sum(2)
    if objective == "bce":
        return functional.softplus(-positive) + (functional.softplus(negative) * share).sum(2)
    masked = negative.masked_fill(~usable, float("-inf"))
    return torch.logsumexp(torch.cat([positive[:, :, None], masked], dim=2), dim=2) - positive
