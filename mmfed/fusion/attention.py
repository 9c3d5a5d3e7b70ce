"""Attention fusion: the user decides how much each modality of an item counts (``mmfnet``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmfed.fusion.head import FusionHead, Values, of_empty


class AttentionFusion(FusionHead):
    """score(u, j) = M_j · Σ_m a_m(u, j) ⟨u, z_jm⟩, a = softmax over present modalities of ⟨u, w_m⟩ + ⟨z_jm, k_m⟩.

    Additive attention (Bahdanau et al. 2015, without the tanh): the exponential factorises into a user and an item
    part, so scores of all users and items are one matrix product and one division. M_j, the number of present
    modalities, makes equal attention the same as concatenation. ``forward``, which has no user, attends by the item
    part alone. An item without any modality gets the learned ``missing``.
    """

    def __init__(
        self,
        widths: Mapping[str, int | None],
        dimensions: int,
        *,
        scale: float,
        generator: torch.Generator,
        meets_user: bool = True,
    ) -> None:
        super().__init__(widths, dimensions, scale=scale, generator=generator, meets_user=meets_user)
        self.user_query = nn.Parameter(torch.zeros(len(widths), dimensions)) if meets_user else None
        self.item_query = nn.Parameter(torch.zeros(len(widths), dimensions))
        self.missing = nn.Parameter(torch.zeros(dimensions))

    def forward(self, values: Sequence[Values], present: Tensor) -> Tensor:
        empty = of_empty(present, self.missing)
        if not self.modalities:
            return present.new_zeros(*present.shape[:-1], self.dimensions) if empty is None else empty
        projected, weights, count = self.attended(values, present)
        share = weights * count / weights.sum(-1, keepdim=True).clamp_min(1e-30)
        fused = _Weighed.apply(share, *projected).unflatten(-1, (len(projected), -1)).sum(-2)
        return fused if empty is None else fused + empty

    def table(self, values: Sequence[Values], present: Tensor) -> Tensor:
        """[items, (modalities + 1) · (d + 1)]: weighted vectors, then the weights they are divided by."""
        missing = self.missing[..., None, :]
        if not self.modalities:
            ones = present.new_ones(*present.shape[:-1], 1)
            return torch.cat([missing * ones, ones], dim=-1)
        projected, weights, count = self.attended(values, present)
        empty = (count == 0).to(weights.dtype)
        above = _Weighed.apply(weights * count, *projected)
        return torch.cat([above, empty * missing, weights, empty.expand_as(weights[..., :1])], dim=-1)

    def query(self, states: Tensor) -> Tensor:
        if self.user_query is None:
            raise RuntimeError("built with meets_user=False")
        logits = states @ self.user_query.mT
        shifted = torch.exp(logits - logits.detach().amax(-1, keepdim=True)) if len(self.modalities) else logits
        shifted = torch.cat([shifted, torch.ones_like(states[..., :1])], dim=-1)
        above = (shifted[..., :, None] * states[..., None, :]).flatten(-2)
        return torch.cat([above, shifted], dim=-1)

    def score(self, queries: Tensor, table: Tensor) -> Tensor:
        (above, below), (weighted, weights) = self._parted(queries), self._parted(table)
        return (above @ weighted.mT) / (below @ weights.mT).clamp_min(1e-30)

    def score_rows(self, queries: Tensor, rows: Tensor) -> Tensor:
        above, below = self._parted(queries[..., None, :] * rows)
        return above.sum(-1) / below.sum(-1).clamp_min(1e-30)

    def _parted(self, joined: Tensor) -> tuple[Tensor, ...]:
        """Vectors, and what they are divided by; one split has a cheaper derivative than two slices."""
        count = len(self.modalities) + 1
        return joined.split([count * self.dimensions, count], dim=-1)

    def attended(self, values: Sequence[Values], present: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """[..., items, d] projections, [..., items, modalities] weights up to a factor, [..., items, 1] counts."""
        projected = self.projected(values)
        queries = self.item_query[..., None]
        logits = torch.cat([one @ queries[..., at, :, :] for at, one in enumerate(projected)], dim=-1)
        logits = logits.masked_fill(present == 0, -1e9)
        # Every weight is divided by the sum of all later: the factor that keeps exp from overflowing has no derivative.
        weights = torch.exp(logits - logits.detach().amax(-1, keepdim=True)) * present
        return projected, weights, present.sum(-1, keepdim=True)


class _Weighed(torch.autograd.Function):
    """[..., items, modalities · d] every z [..., items, d] times its weights [..., items, modalities]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weights: Tensor, *projected: Tensor) -> Tensor:
        return torch.cat([one * weights[..., at, None] for at, one in enumerate(projected)], dim=-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        weights, *projected = ctx.saved_tensors
        parts = gradients[0].chunk(len(projected), dim=-1)
        of_weights = [(part * one).sum(-1) for part, one in zip(parts, projected, strict=True)]
        return torch.stack(of_weights, -1), *(part * weights[..., at, None] for at, part in enumerate(parts))
