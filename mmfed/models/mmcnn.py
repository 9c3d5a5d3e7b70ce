"""``mmcnn``: multimodal network over the concatenation (article: F=[I;T;P], r̂ = ReLU(FC(F)))."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmfed.models.base import HiddenTables
from mmfed.models.tower import TowerRecommender

ITEM_BLOCK = 512  # items scored at a time: the hidden layer of every (user, item) pair is the largest tensor


class ConcatenationNetwork(TowerRecommender):
    """Fully connected layers over F = [I; T; P; u]: the printed r̂ does not depend on the user, so u joins the input.

    score = w · ReLU(W [F; u] + b), F and u normalised (layer norm): a unit that one of them outweighs passes the other
    no gradient. The first layer starts with the four units x+u, −x−u, x−u, u−x per dimension and the last with
    1, 1, −1, −1 (times .1), so that the network starts as |x+u| − |x−u|, a product without multiplication; both are
    trained freely from there. A dense start hardly learns a product (Rendle et al. 2020).
    """

    fuses_early = True
    output = "relu"
    batched = True
    default_objective = "sampled-softmax"  # the full softmax would need a hidden layer per user and item

    @property
    def one_vector_per_item(self) -> bool:
        return False

    def build(self, generator: torch.Generator) -> None:
        del generator
        unit = torch.eye(self.dimensions)
        self.item_in = nn.Parameter(torch.cat([unit, -unit, unit, -unit], dim=1))
        self.user_in = nn.Parameter(torch.cat([unit, -unit, -unit, unit], dim=1))
        self.hidden_bias = nn.Parameter(torch.zeros(4 * self.dimensions))
        signs = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat_interleave(self.dimensions)
        self.out = nn.Parameter(signs / 10)

    def target_table(self, values: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """[items, 4d]: the item's part of the hidden layer, before its non-linearity."""
        return self._inputs(values, present)[0] @ self.item_in + self.hidden_bias[..., None, :]

    def hidden_tables(self) -> HiddenTables | None:
        if self.ratings or self.encoders:
            return None
        return HiddenTables(self._inputs, self._standard, "item_in", "user_in", "hidden_bias", "out")

    def _inputs(self, values: Mapping[str, Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """[items, d] the items, fused and normalised, and their biases [items]."""
        return self._standard(super().target_table(values, present)), self.item_bias * self.section.bias_scale

    def match(self, states: Tensor, table: Tensor) -> Tensor:
        user = (self._standard(states) @ self.user_in)[..., None, :]
        blocks = table.split(ITEM_BLOCK, dim=-2)
        return torch.cat([_Activated.apply(block[..., None, :, :] + user, self.out)[0] for block in blocks], dim=-1)

    def match_rows(self, states: Tensor, rows: Tensor) -> Tensor:
        return _Activated.apply(rows + (self._standard(states) @ self.user_in)[..., None, :], self.out)[0]

    def _standard(self, vectors: Tensor) -> Tensor:
        return functional.layer_norm(vectors, (self.dimensions,), eps=1e-6)


class _Activated(torch.autograd.Function):
    """[..., states, items] ReLU(h) · w of the hidden layer h [..., states, items, width], the largest tensor there is.

    The last weights w are [width], or [users, width] where h has an axis of users in front. ReLU(h) comes second.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(hidden: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        active = torch.relu(hidden)
        if out.dim() == 2 and out.stride(0) == 0:  # everybody's are the same still
            out = out[0]
        if out.dim() == 1:
            return active @ out, active
        return torch.stack([one @ weights for one, weights in zip(active, out, strict=True)]), active

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(output[1], inputs[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        active, out = ctx.saved_tensors
        of_scores = gradients[0]
        passed = torch.ops.aten.threshold_backward(of_scores[..., None].expand_as(active), active, 0)
        if out.dim() == 1:
            return passed * out, of_scores.flatten() @ active.flatten(0, -2)
        weights = out.view(len(out), *[1] * (active.dim() - 2), -1)
        pairs = zip(of_scores.flatten(1), active.flatten(1, -2), strict=True)
        return passed * weights, torch.stack([of_score @ one for of_score, one in pairs])
