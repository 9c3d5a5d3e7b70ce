"""Product fusion: the modalities multiply, dimension by dimension (the article's I·T·P)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmfed.fusion.head import FusionHead, Values, of_empty, where_present


class ProductFusion(FusionHead):
    """F = Π_m (1 + z_m) − 1 over present modalities.

    A bare product of small vectors vanishes and has no gradient; with the 1 it holds the trilinear term together with
    all lower ones, and a missing modality multiplies by 1. An item without any modality gets the learned ``missing``.
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
        self.missing = nn.Parameter(torch.zeros(dimensions))

    def forward(self, values: Sequence[Values], present: Tensor) -> Tensor:
        empty = of_empty(present, self.missing)
        if not self.modalities:
            return present.new_zeros(*present.shape[:-1], self.dimensions) if empty is None else empty
        read = [where_present(value, present[..., at]) for at, value in enumerate(self.projected(values))]
        fused, *_ = _Product.apply(*read)
        return fused if empty is None else fused + empty


class _Product(torch.autograd.Function):
    """Π_m (1 + z_m) − 1, and its derivatives by every z: found once, so that gradients take one pass each.

    Every z is [..., items, d].
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(*read: Tensor) -> tuple[Tensor, ...]:
        before, after = [torch.ones_like(read[0])], [torch.ones_like(read[0])]
        for z in read:
            before.append(torch.addcmul(before[-1], before[-1], z))
        for z in reversed(read[1:]):
            after.append(torch.addcmul(after[-1], after[-1], z))
        derivatives = [one * other for one, other in zip(before, reversed(after), strict=False)]
        return before[-1] - 1, *derivatives

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(gradients[0] * one for one in ctx.saved_tensors)
