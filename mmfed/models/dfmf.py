"""``dfmf``: deep feature fusion with collaborative filtering (article: r̂ = σ(F · R) on deep features)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmfed.fusion.head import where_present
from mmfed.models.base import ResidualTables
from mmfed.models.tower import TowerRecommender


class DeepFusionRecommender(TowerRecommender):
    """Deep features → fusion → residual hidden layer → dot product with the user, plus an id residual for warm items.

    The hidden layer's outgoing weights start at zero, so the model starts as its linear part.
    """

    fuses_early = True
    batched = True

    def build(self, generator: torch.Generator) -> None:
        d, hidden = self.dimensions, self.section.hidden
        self.deep_in = nn.Parameter(torch.randn(2, d, hidden, generator=generator) / d**0.5)
        self.deep_bias = nn.Parameter(torch.zeros(2, hidden))
        self.deep_out = nn.Parameter(torch.zeros(2, hidden, d))

    def target_modalities(self) -> tuple[str, ...]:
        return self.features.names

    def history_vectors(self, values: Mapping[str, Tensor], present: Tensor) -> Tensor:
        return self._with_id(self._deepened(super().history_vectors(values, present), 0), 0, present)

    def own_vectors(self, values: Mapping[str, Tensor], present: Tensor) -> Tensor:
        return self._deepened(super().own_vectors(values, present), 0)

    def target_table(self, values: Mapping[str, Tensor], present: Tensor) -> Tensor:
        return self._with_id(self._deepened(super().target_table(values, present), 1), 1, present)

    def residual_tables(self) -> ResidualTables | None:
        if self.ratings or self.encoders or self.section.similarity != "dot":
            return None
        return ResidualTables(self._parts, "deep_out", 1, 1 / self.section.hidden)

    def _parts(self, values: Mapping[str, Tensor], present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fused = super().target_table(values, present)
        return self._with_id(fused, 1, present), self._hidden(fused, 1), self.item_bias * self.section.bias_scale

    def _deepened(self, fused: Tensor, side: int) -> Tensor:
        """[rows, d]; ``side`` 0 is the history's, 1 the target's."""
        # Adam moves every weight alike: without the factor the sum over hidden units would drown the linear part.
        return fused + self._hidden(fused, side) @ (self.deep_out[..., side, :, :] / self.section.hidden)

    def _hidden(self, fused: Tensor, side: int) -> Tensor:
        """[rows, hidden]"""
        standard = functional.layer_norm(fused, (self.dimensions,))
        return torch.relu(standard @ self.deep_in[..., side, :, :] + self.deep_bias[..., side, None, :])

    def _with_id(self, deep: Tensor, side: int, present: Tensor) -> Tensor:
        """[items, d] with the id residual of warm items."""
        if not self.section.item_ids:
            return deep
        return deep + where_present(self.target_ids if side else self.history_ids, present[..., -1])
