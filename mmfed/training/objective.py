"""Training objectives: the loss of each user of a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mmfed.config import TrainingSection
from mmfed.models.base import ItemTables, Recommender
from mmfed.training.batch import TrainingBatch


def user_losses(
    model: Recommender, section: TrainingSection, tables: ItemTables, vectors: Tensor, batch: TrainingBatch
) -> Tensor:
    """The loss of each user: the mean over the user's positions.

    Negatives are items the user had not touched before the position; later items of the user, and the held-out ones of
    evaluation, are negatives like any other (no knowledge of the future).

    Args:
        tables: the item tables.
        vectors: [users, events, d] history vectors of the batch's events.

    Returns:
        [users]; 0 for a user without a position.
    """
    states = model.user_states(vectors, batch.histories)
    positions = batch.histories.positions
    if section.objective == "softmax":
        scores = model.score(states, tables)
        seen = batch.first_seen[:, None, :] < positions[:, :, None]
        target = scores.gather(2, batch.targets[:, :, None]).squeeze(2)
        # The target itself may have been seen (repeat purchase): its term is put back after masking.
        masked = scores.masked_fill(seen, float("-inf"))
        seen_target = seen.gather(2, batch.targets[:, :, None]).squeeze(2)
        normaliser = torch.logsumexp(masked, dim=2)
        normaliser = torch.where(seen_target, torch.logaddexp(normaliser, target), normaliser)
        return ((normaliser - target) * batch.weights).sum(1)
    candidates = torch.cat([batch.targets[:, :, None], batch.negatives], dim=2)
    scores = model.score_candidates(states, tables, candidates)
    first = torch.gather(batch.first_seen, 1, batch.negatives.flatten(1)).view_as(batch.negatives)
    usable = (first >= positions[:, :, None]) & (batch.negatives != batch.targets[:, :, None])
    positive, negative = scores[:, :, 0], scores[:, :, 1:]
    share = usable.to(scores.dtype) / usable.sum(2, keepdim=True).clamp_min(1)
    if section.objective == "bpr":
        losses = (functional.softplus(negative - positive[:, :, None]) * share).sum(2)
    elif section.objective == "bce":
        losses = functional.softplus(-positive) + (functional.softplus(negative) * share).sum(2)
    else:
        masked = negative.masked_fill(~usable, float("-inf"))
        losses = torch.logsumexp(torch.cat([positive[:, :, None], masked], dim=2), dim=2) - positive
    return (losses * batch.weights).sum(1)
