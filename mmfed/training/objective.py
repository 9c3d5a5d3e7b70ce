"""Training objectives: the loss of each user of a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mmfed.config import TrainingSection
from mmfed.errors import ExitCode, MmfedError
from mmfed.models.base import ItemTables, Recommender
from mmfed.training.batch import SAMPLED, TrainingBatch, objective_of
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
    return losses_of_states(model, section, tables, states, batch)


def losses_of_states(
    model: Recommender, section: TrainingSection, tables: ItemTables, states: Tensor, batch: TrainingBatch
) -> dict[str, Tensor]:
    """``task_losses`` from the states [users, states, width] of the batch's positions."""
    objective = objective_of(model, section)
    if objective == "softmax":
        scores = model.score(states, tables)
        of_targets = scores.gather(2, batch.targets[:, :, None]).squeeze(2)
        preference = _softmax_losses(scores, of_targets, batch)
    else:
        negatives = batch.negatives if objective in SAMPLED else batch.negatives[:, :, :0]
        scores = model.score_candidates(states, tables, torch.cat([batch.targets[:, :, None], negatives], dim=2))
        of_targets = scores[:, :, 0]
        preference = (
            candidate_losses(section, objective, scores, batch.usable)
            if objective in SAMPLED
            else (model.rating(of_targets) - batch.ratings).square()
        )
    losses = {"preference": (preference * batch.weights).sum(1)}
    action = action_losses(model, section, states, of_targets, batch)
    return losses if action is None else losses | {"action": action}


def action_losses(
    model: Recommender, section: TrainingSection, states: Tensor, of_targets: Tensor, batch: TrainingBatch
) -> Tensor | None:
    """[users] of what the person did with the targets; None without that task.

    Args:
        of_targets: [users, states] their scores.
    """
    logits = model.action_logits(states, of_targets) if section.action_weight else None
    if logits is None:
        return None
    logged = torch.log_softmax(logits, dim=-1).gather(2, batch.actions.clamp_min(0)[:, :, None]).squeeze(2)
    return -section.action_weight * (logged * (batch.actions >= 0) * batch.weights).sum(1)


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


def _softmax_losses(scores: Tensor, of_targets: Tensor, batch: TrainingBatch) -> Tensor:
    """[users, states] under the full softmax, from scores [users, states, items] and those of the targets."""
    seen = batch.first_seen[:, None, :] < batch.histories.positions[:, :, None]
    # The target itself may have been seen (repeat purchase): its term is put back after masking.
    seen_target = seen.gather(2, batch.targets[:, :, None]).squeeze(2)
    normaliser = torch.logsumexp(scores.masked_fill(seen, float("-inf")), dim=2)
    normaliser = torch.where(seen_target, torch.logaddexp(normaliser, of_targets), normaliser)
    return normaliser - of_targets


def candidate_losses(section: TrainingSection, objective: str, scores: Tensor, usable: Tensor) -> Tensor:
    """[users, states] of a sampled objective.

    Args:
        scores: [users, states, 1 + negatives], the target's first.
        usable: [users, states, negatives] which negatives count.
    """
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
    return -torch.log_softmax(torch.cat([positive[:, :, None], masked], dim=2), dim=2)[:, :, 0]
