"""``mmfnet``: attention fusion with several tasks (article: r̂ = Attention(F) ⊙ FC(F))."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmfed.data.schema import Action
from mmfed.models.public_tasks import prototype_loss
from mmfed.models.tower import ID, TowerRecommender


class AttentionFusionNetwork(TowerRecommender):
    """Attention over the modalities, conditioned on the user; each modality also tells category and price band alone.

    ``Attention(F)`` are the weights a_m(u, j), ``FC(F)`` the modalities' projections; their product summed over
    modalities meets the user. Category and price band are public labels; what the user does next (view, cart, buy) is
    a private one, learned on the device.
    """

    own_fusion = "attention"
    output = "relu"
    batched = True
    acts = True

    def build(self, generator: torch.Generator) -> None:
        del generator
        self.action_weight = nn.Parameter(torch.zeros(self.dimensions, len(Action)))
        self.action_score = nn.Parameter(torch.zeros(len(Action)))
        self.action_bias = nn.Parameter(torch.zeros(len(Action)))

    def auxiliary_losses(self, values: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        values = self.item_values() if values is None else values
        read, present = self.inputs(self.target_head, values, self.present(None), history=False)
        projected = self.target_head.projected(read)
        return {
            f"{modality} tells {label}": prototype_loss(projected[column], present[:, column], labels)
            for column, modality in enumerate(self.target_head.modalities)
            if modality != ID
            for label, labels in self.features.labels.items()
        }

    def action_logits(self, states: Tensor, scores: Tensor) -> Tensor:
        seen = states[..., : self.dimensions] @ self.action_weight
        return seen + scores[..., None] * self.action_score[..., None, :] + self.action_bias[..., None, :]
