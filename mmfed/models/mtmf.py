"""``mtmf``: multi-task learning with collaborative filtering (article: Q = UserEmbed(P), r̂ = σ(I · T · P))."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mmfed.models.public_tasks import prototype_loss
from mmfed.models.tower import ID, TowerRecommender

_TASKS = {"attributes": "price_band"}  # every other modality tells the category


class MultiTaskFactorisation(TowerRecommender):
    """r̂ = σ(Σ_d I_d T_d P_d u_d), the user computed from the attributes of the own items, on the device.

    Where the shop has no attributes the user is computed from all it has. The item's id counts as an attribute. One
    auxiliary task per modality shares the towers.
    """

    own_fusion = "product"
    batched = True

    def history_modalities(self) -> tuple[str, ...]:
        if self.section.history == 0 or "attributes" not in self.features.names:
            return super().history_modalities()
        return ("attributes", ID) if self.section.item_ids else ("attributes",)

    def auxiliary_losses(self, values: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        values = self.item_values() if values is None else values
        read, present = self.inputs(self.target_head, values, self.present(None), history=False)
        projected = self.target_head.projected(read)
        losses = {}
        for column, modality in enumerate(self.target_head.modalities):
            label = _TASKS.get(modality, "category")
            if modality != ID and label in self.features.labels:
                task = f"{modality} tells {label}"
                losses[task] = prototype_loss(projected[column], present[..., column], self.features.labels[label])
        return losses
