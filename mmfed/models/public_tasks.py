"""Auxiliary tasks on public labels: no parameters of their own, no privacy cost."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mmfed.models.base import ItemLabels

TEMPERATURE = 0.2


def prototype_loss(vectors: Tensor, present: Tensor, labels: ItemLabels) -> Tensor:
    """Cross-entropy of telling an item's label by the nearest class mean (prototypical networks, Snell et al. 2017).

    Args:
        vectors: [items, d] of one modality.
        present: [items] 1 where the item has it.
        labels: [items, classes] the public label.

    Returns:
        Scalar, nats; 0 where no item has both.
    """
    usable = present * labels.known
    shares = labels.targets * usable[:, None]
    means = shares.T @ vectors / shares.sum(0).clamp_min(1e-12)[:, None]
    logits = functional.normalize(vectors, dim=1) @ functional.normalize(means, dim=1).T / TEMPERATURE
    losses = -(labels.targets * torch.log_softmax(logits, dim=1)).sum(1)
    return (losses * usable).sum() / usable.sum().clamp_min(1)
