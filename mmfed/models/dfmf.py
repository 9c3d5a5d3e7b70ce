"""``dfmf``: deep feature fusion with collaborative filtering (article: r̂ = σ(F · R) on deep features)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmfed.fusion.attention import AttentionFusion
from mmfed.fusion.concat import ConcatFusion
from mmfed.models.base import HistoryBatch, ItemFeatures, ItemTables, Recommender, Scope
from mmfed.models.pooling import HistoryPooling
from mmfed.rng import torch_generator

_FUSION = {"concat": ConcatFusion, "attention": AttentionFusion}


class DeepFusionRecommender(Recommender):
    """Frozen deep features → trainable fusion → dot product with a state pooled from the user's own history.

    History and target side have a fusion head each, plus an item-id residual for the items known at training time; an
    item added later is scored from its content alone. With ``private_user_vector`` a vector per user, kept on the
    device, is added to the state.

    Args:
        features: the public catalogue.
        dimensions: width d.
        fusion: "concat" or "attention".
        item_ids: whether items have an id residual.
        decays: recency decays of the state.
        history: events of a history that count.
        content_scale: factor on the content features: smaller lets ids and biases learn faster than content.
        bias_scale: the bias of an item is this times its parameter, so that a clipped, noised step carries more of it.
        private_user_vector: whether states include a private vector.
        seed: of the initial weights.
    """

    def __init__(
        self,
        features: ItemFeatures,
        *,
        dimensions: int,
        fusion: str,
        item_ids: bool,
        decays: Sequence[float],
        history: int,
        content_scale: float,
        bias_scale: float,
        private_user_vector: bool,
        seed: int,
    ) -> None:
        super().__init__(features, dimensions)
        self.content_scale = content_scale
        self.bias_scale = bias_scale
        generator = torch_generator(seed, "initial weights")
        head = _FUSION[fusion]
        self.history_content = head(features.widths, dimensions, scale=0.2, generator=generator)
        self.target_content = head(features.widths, dimensions, scale=0.2, generator=generator)
        self.target_content.load_state_dict(self.history_content.state_dict())
        self.item_ids = item_ids
        if item_ids:
            shape = (features.item_count, dimensions)
            self.history_ids = nn.Parameter(torch.randn(shape, generator=generator) * 0.05)
            self.target_ids = nn.Parameter(torch.randn(shape, generator=generator) * 0.05)
        self.item_bias = nn.Parameter(torch.zeros(features.item_count))
        self.pooling = HistoryPooling(dimensions, decays, history)
        self.user_vector = nn.Parameter(torch.zeros(dimensions)) if private_user_vector else None

    def item_tables(self) -> ItemTables:
        values = tuple(value * self.content_scale for value in self.features.values)
        history = self.history_content(values, self.features.present)
        target = self.target_content(values, self.features.present)
        if self.item_ids:
            history = history + self.history_ids
            target = target + self.target_ids
        return ItemTables(history, target, self.item_bias * self.bias_scale)

    def user_states(self, vectors: Tensor, batch: HistoryBatch) -> Tensor:
        states = self.pooling(vectors, batch)
        return states if self.user_vector is None else states + batch.user_vectors[:, None, :]

    def scopes(self) -> dict[str, Scope]:
        return super().scopes() | ({"user_vector": Scope.PRIVATE} if self.user_vector is not None else {})
