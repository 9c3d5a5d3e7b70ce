"""``mmcnn``: multimodal network over the concatenation (article: F=[I;T;P], r̂ = ReLU(FC(F)))."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

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
        return self._standard(super().target_table(values, present)) @ self.item_in + self.hidden_bias[..., None, :]

    def match(self, states: Tensor, table: Tensor) -> Tensor:
        user = (self._standard(states) @ self.user_in)[..., None, :]
        blocks = table.split(ITEM_BLOCK, dim=-2)
        return torch.cat([self._scored(block[..., None, :, :] + user) for block in blocks], dim=-1)

    def match_rows(self, states: Tensor, rows: Tensor) -> Tensor:
        return self._scored(rows + (self._standard(states) @ self.user_in)[..., None, :])

    def _scored(self, hidden: Tensor) -> Tensor:
        """[..., states, items] from the hidden layer [..., states, items, 4d] before its non-linearity."""
        active = torch.relu(hidden)
        if self.out.dim() == 1:
            return active @ self.out
        return (active.flatten(1, -2) @ self.out[:, :, None]).view(active.shape[:-1])

    def _standard(self, vectors: Tensor) -> Tensor:
        return functional.layer_norm(vectors, (self.dimensions,), eps=1e-6)
