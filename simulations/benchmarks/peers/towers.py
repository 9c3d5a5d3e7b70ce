"""The mathematics of the workloads on gathered rows, for automatic differentiation; shared by the peers that train."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

GATED = ("target_head.project", "target_head.gate", "target_head.gate_bias")


def gated(parameters: Mapping[str, Tensor], projections: Sequence[str], parts: Sequence[Tensor]) -> Tensor:
    """[rows, d] F = Σ_m 2σ(z_m G_m + c_m) ⊙ z_m of rows that have all modalities.

    Args:
        projections: name of each modality's projection.
        parts: [rows, width] features by modality.
    """
    fused = None
    gate, bias = parameters["target_head.gate"], parameters["target_head.gate_bias"]
    for column, (name, values) in enumerate(zip(projections, parts, strict=True)):
        projected = values @ parameters[name]
        weighed = torch.sigmoid(torch.addmm(bias[column], projected, gate[column])) * projected
        fused = weighed if fused is None else fused + weighed
    if fused is None:
        raise ValueError("gated fusion of no modality")
    return 2 * fused


def sampled_loss(vector: Tensor, rows: Tensor, bias: Tensor, share: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over positions.

    Args:
        vector: [d] the private vector.
        rows: [states · candidates, d] item vectors, of each state the target first.
        bias: [states, candidates]
        share: [states, candidates - 1] weights of the negatives.
    """
    scores = (rows @ vector).view_as(bias) + bias
    positive, negative = scores[:, 0], scores[:, 1:]
    return (functional.softplus(-positive) + (functional.softplus(negative) * share).sum(1)).mean()


def pooled_states(
    history: Tensor, mix: Tensor, positions: Tensor, kept: Tensor, decays: Sequence[float], longest: int
) -> Tensor:
    """[states, d] Σ_γ (weighted mean of the earlier events' vectors) A_γ; see ``mmfed.models.pooling``.

    Args:
        history: [events, d]
        mix: [decays, d, d]
        positions: [states]
        kept: [events] bool
    """
    age = (positions - 1)[:, None] - torch.arange(len(history))
    enters = (age >= 0) & (age < longest) & kept
    logs = torch.tensor([math.log(decay) for decay in decays])
    weights = torch.exp(age.clamp_min(0) * logs[:, None, None]) * enters
    weights = weights / weights.sum(2, keepdim=True).clamp_min(1e-12) ** 0.75
    return torch.bmm(weights @ history, mix).sum(0)


def softmax_loss(
    states: Tensor, table: Tensor, bias: Tensor, targets: Tensor, positions: Tensor, first: Tensor
) -> Tensor:
    """Softmax over all items but those touched before, the mean over positions.

    Args:
        states: [states, d]
        table, bias: [items, d], [items]
        targets, positions: [states]
        first: [items] event at which the item first occurs.
    """
    scores = torch.addmm(bias, states, table.T)
    seen = first < positions[:, None]
    seen.scatter_(1, targets[:, None], False)  # a repeated item is scored as the target it is
    return functional.cross_entropy(scores.masked_fill(seen, -math.inf), targets)
