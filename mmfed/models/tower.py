"""What the six recommenders share: item towers, ids, biases, and a state pooled from the user's own history."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmfed.config import ModelSection
from mmfed.errors import ExitCode, MmfedError
from mmfed.fusion.head import FusionHead
from mmfed.fusion.registry import fusion_head
from mmfed.models.base import HistoryBatch, ItemFeatures, ItemTables, Recommender, Scope
from mmfed.models.pooling import HistoryPooling
from mmfed.rng import torch_generator

ID = "id"  # the item's own id as one more modality: a trained vector, absent for items added after training
ID_SCALE, HEAD_SCALE = 0.05, 0.2
RATINGS_BEFORE_TRUST = 5.0  # a person's mean deviation is shrunk as if this many more ratings had been average


class TowerRecommender(Recommender):
    """History and target side have a fusion head each; the score is a product of state and item plus the item's bias.

    The state is pooled from the user's own history by shared weights, so a new user needs no training and the last
    click changes the next list. With ``private_user_vector`` a vector per user, kept on the device, is added.

    For ratings the history counts by how much better each item was rated than expected, and the person's own mean
    deviation is one more coordinate of the state.

    Args:
        features: the public catalogue.
        section: widths, fusion, ids, pooling, scales.
        seed: of the initial weights.
        ratings: predict ratings instead of ranking.

    Attributes:
        own_fusion: the head that ``model.fusion = "default"`` takes.
        fuses_early: items are one vector before they meet the user; a head that weighs by user weighs by item alone.
        output: the article's output non-linearity for ratings; a ranking keeps the logit.
    """

    own_fusion: ClassVar[str] = "concat"
    fuses_early: ClassVar[bool] = False
    output: ClassVar[Literal["sigmoid", "relu"]] = "sigmoid"

    def __init__(self, features: ItemFeatures, section: ModelSection, *, seed: int, ratings: bool = False) -> None:
        super().__init__(features, section.dimensions)
        self.section = section
        self.ratings = ratings
        generator = torch_generator(seed, "initial weights")
        self.history_head = self.new_head(self.history_modalities(), generator, meets_user=False)
        self.target_head = self.new_head(self.target_modalities(), generator, meets_user=not self.fuses_early)
        with torch.no_grad():
            # Both sides of a modality start alike: what a person touched then points at its own kind.
            for name, weight in self.target_head.project.items():
                if name in self.history_head.project:
                    weight.copy_(self.history_head.project[name])
        if section.item_ids:
            shape = (features.item_count, section.dimensions)
            self.history_ids = nn.Parameter(torch.randn(shape, generator=generator) * ID_SCALE)
            self.target_ids = nn.Parameter(torch.randn(shape, generator=generator) * ID_SCALE)
        self.item_bias = nn.Parameter(torch.zeros(features.item_count))
        self.pooling = HistoryPooling(section.dimensions, section.decays, section.history)
        self.user_vector = nn.Parameter(torch.zeros(section.dimensions)) if section.private_user_vector else None
        if ratings:
            self.rating_offset = nn.Parameter(torch.zeros(1))
            self.deviation_slope = nn.Parameter(torch.tensor([4.0 if self.output == "sigmoid" else 1.0]))
        self.build(generator)
        if section.similarity == "cosine" and not self.one_vector_per_item:
            raise MmfedError(
                ExitCode.CONFIG,
                f"model.similarity = 'cosine': {section.name} with model.fusion = {self.fusion!r} scores items by more "
                "than one vector each.",
                "set model.similarity = 'dot', or take mf, dfmf, gcn or mtmf with another fusion.",
            )

    def build(self, generator: torch.Generator) -> None:
        """Further parameters of a recommender; called at the end of construction."""

    @property
    def fusion(self) -> str:
        """The fusion head's name."""
        return self.own_fusion if self.section.fusion == "default" else self.section.fusion

    @property
    def one_vector_per_item(self) -> bool:
        """Whether a score is the dot product of a state with one vector of the item."""
        return self.fuses_early or type(self.target_head).score is FusionHead.score

    @property
    def modality_columns(self) -> int:
        return len(self.features.names) + self.section.item_ids

    def history_modalities(self) -> tuple[str, ...]:
        """What of an item enters a user's state."""
        return self.target_modalities()

    def target_modalities(self) -> tuple[str, ...]:
        """What of an item is scored; the id is a modality like the others."""
        return (*self.features.names, ID) if self.section.item_ids else self.features.names

    def new_head(self, modalities: tuple[str, ...], generator: torch.Generator, *, meets_user: bool) -> FusionHead:
        """A fusion head over some modalities."""
        widths = self.features.widths
        return fusion_head(self.fusion)(
            {name: widths.get(name) for name in modalities},
            self.dimensions,
            scale=HEAD_SCALE,
            generator=generator,
            meets_user=meets_user,
        )

    def item_tables(self, mask: Tensor | None = None) -> ItemTables:
        present = self.present(mask)
        history = self.history_vectors(present)
        target = self.target_table(present)
        bias = self.item_bias * self.section.bias_scale
        if self.section.similarity == "cosine":
            target = functional.normalize(target, dim=1) / self.section.temperature
        if self.ratings:
            history = torch.cat([history, bias[:, None]], dim=1)
            bias = bias + self.rating_offset
        return ItemTables(history, target, bias)

    def history_vectors(self, present: Tensor) -> Tensor:
        """[items, d] of the history side."""
        return self.history_head(*self.inputs(self.history_head, present, history=True))

    def target_table(self, present: Tensor) -> Tensor:
        """[items, width] of the target side."""
        values, columns = self.inputs(self.target_head, present, history=False)
        return self.target_head(values, columns) if self.fuses_early else self.target_head.table(values, columns)

    def inputs(self, head: FusionHead, present: Tensor, *, history: bool) -> tuple[list[Tensor], Tensor]:
        """Values of a head's modalities and their columns of ``present`` [items, modality_columns]."""
        values = {
            name: value * self.section.content_scale
            for name, value in zip(self.features.names, self.features.values, strict=True)
        }
        if self.section.item_ids:
            values[ID] = self.history_ids if history else self.target_ids
        names = (*self.features.names, ID)
        columns = [names.index(name) for name in head.modalities]
        return [values[name] for name in head.modalities], present[:, columns]

    def present(self, mask: Tensor | None) -> Tensor:
        """[items, modality_columns] what the towers may read of each item."""
        present = self.features.present
        if self.section.item_ids:
            present = torch.cat([present, present.new_ones(present.shape[0], 1)], dim=1)
        return present if mask is None else present * mask

    def user_states(self, vectors: Tensor, batch: HistoryBatch) -> Tensor:
        if not self.ratings:
            return self.pooled(vectors, batch)
        expected = self.rating(self.rating_offset + vectors[..., -1])
        surprise = (batch.ratings - expected) * batch.known
        states = self.pooled(vectors[..., :-1] * surprise[..., None] * 4, batch)
        before = self.pooling.before(batch).to(surprise.dtype)
        deviation = (before * surprise[:, None, :]).sum(-1) / (before.sum(-1) + RATINGS_BEFORE_TRUST)
        return torch.cat([states, deviation[..., None] * self.deviation_slope], dim=-1)

    def pooled(self, vectors: Tensor, batch: HistoryBatch) -> Tensor:
        """States [users, states, d] from the history, the private vector added."""
        states = self.pooling(vectors, batch)
        if self.user_vector is not None:
            states = states + batch.user_vectors[:, None, :]
        return functional.normalize(states, dim=-1) if self.section.similarity == "cosine" else states

    def score(self, states: Tensor, tables: ItemTables) -> Tensor:
        taste, deviation = self._parted(states)
        return self.match(taste, tables.target) + tables.bias + deviation

    def score_candidates(self, states: Tensor, tables: ItemTables, candidates: Tensor) -> Tensor:
        taste, deviation = self._parted(states)
        return (
            self.match_rows(taste, functional.embedding(candidates, tables.target))
            + tables.bias[candidates]
            + deviation
        )

    def match(self, states: Tensor, table: Tensor) -> Tensor:
        """[..., items] how well states [..., d] fit items, without bias."""
        if self.fuses_early:
            return states @ table.T
        return self.target_head.score(self.target_head.query(states), table)

    def match_rows(self, states: Tensor, rows: Tensor) -> Tensor:
        """[..., candidates] of chosen table rows [..., candidates, width]."""
        if self.fuses_early:
            return (states[..., None, :] * rows).sum(-1)
        return self.target_head.score_rows(self.target_head.query(states), rows)

    def rating(self, scores: Tensor) -> Tensor:
        return torch.sigmoid(scores) if self.output == "sigmoid" else torch.relu(scores + 0.5)

    def scopes(self) -> dict[str, Scope]:
        return super().scopes() | ({"user_vector": Scope.PRIVATE} if self.user_vector is not None else {})

    def _parted(self, states: Tensor) -> tuple[Tensor, Tensor | float]:
        return (states[..., :-1], states[..., -1:]) if self.ratings else (states, 0.0)
