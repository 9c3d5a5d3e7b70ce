"""Gated fusion: every modality passes a gate of its own (gated multimodal unit, Arevalo et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmfed.fusion.head import FusionHead, Values, of_empty, where_present


class GatedFusion(FusionHead):
    """F = Σ_m g_m ⊙ z_m over present modalities, g_m = 2σ(z_m · G_m + c_m) per dimension.

    Gates start at 1, where the head equals concatenation. An item without any modality gets the learned ``missing``.
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
        self.gate = nn.Parameter(torch.zeros(len(widths), dimensions, dimensions))
        self.gate_bias = nn.Parameter(torch.zeros(len(widths), dimensions))
        self.missing = nn.Parameter(torch.zeros(dimensions))

    def forward(self, values: Sequence[Values], present: Tensor) -> Tensor:
        empty = of_empty(present, self.missing)
        if not self.modalities:
            return present.new_zeros(*present.shape[:-1], self.dimensions) if empty is None else empty
        read = [where_present(value, present[..., at]) for at, value in enumerate(self.projected(values))]
        fused, *_ = _Gated.apply(self.gate, self.gate_bias, *read)
        return fused if empty is None else fused + empty


class _Gated(torch.autograd.Function):
    """Σ_m z_m ⊙ 2σ(z_m · G_m + c_m), and every σ: few passes over the z, which take most of the time of a gate.

    G is [..., modalities, d, d], c [..., modalities, d] and every z [..., items, d].
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(matrices: Tensor, biases: Tensor, *read: Tensor) -> tuple[Tensor, ...]:
        fused, opened = None, []
        for column, z in enumerate(read):
            logits = _affine(biases[..., column, None, :], z, matrices[..., column, :, :])
            opened.append(torch.sigmoid(logits))
            fused = (z + z) * opened[-1] if fused is None else torch.addcmul(fused, z, opened[-1], value=2)
        if fused is None:
            raise ValueError("no modality to gate")
        return fused, *opened

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        matrices, _, *read = inputs
        ctx.save_for_backward(matrices, *read, *output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        matrices, *saved = ctx.saved_tensors
        read, opened = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        of_matrices, of_biases, of_read = [], [], []
        for column, (z, share) in enumerate(zip(read, opened, strict=True)):
            through = gradients[0] * share
            of_logits = through * z
            of_logits = torch.addcmul(of_logits, of_logits, share, value=-1)  # σ' = σ (1 − σ); the 2 comes below
            of_matrices.append(z.mT @ of_logits)
            of_biases.append(of_logits.sum(-2))
            of_read.append(_affine(through, of_logits, matrices[..., column, :, :].mT, factor=2.0))
        return torch.stack(of_matrices, -3) * 2, torch.stack(of_biases, -2) * 2, *of_read


def _affine(start: Tensor, rows: Tensor, matrix: Tensor, factor: float = 1.0) -> Tensor:
    """factor · (start + rows · matrix), as one product where it can be."""
    if rows.dim() == matrix.dim() == 3:
        return torch.baddbmm(start, rows, matrix, beta=factor, alpha=factor)
    if rows.dim() == matrix.dim() == 2:
        return torch.addmm(start, rows, matrix, beta=factor, alpha=factor)
    return (start + rows @ matrix) * factor
