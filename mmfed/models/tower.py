"""What the six recommenders share: item towers, ids, biases, and a state pooled from the user's own history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmfed.config import ModelSection
from mmfed.errors import ExitCode, MmfedError
from mmfed.fusion.attention import AttentionFusion
from mmfed.fusion.concat import ConcatFusion
from mmfed.fusion.head import FusionHead, KnownProduct, Values
from mmfed.fusion.registry import fusion_head
from mmfed.models.base import (
    AttendedModality,
    AttendedTables,
    HistoryBatch,
    ItemFeatures,
    ItemTables,
    LinearSide,
    LinearTables,
    OwnEvents,
    Projection,
    Recommender,
    Scope,
    answers_said,
)
from mmfed.models.pooling import HistoryPooling
from mmfed.rng import torch_generator

ID = "id"  # the item's own id as one more modality: a trained vector, absent for items added after training
ID_SCALE, HEAD_SCALE = 0.05, 0.2
RATINGS_BEFORE_TRUST = 5.0  # a person's mean deviation is shrunk as if this many more ratings had been average


class TowerRecommender(Recommender):
    """History and target side have a fusion head each; the score is a product of state and item plus the item's bias.

    The state is pooled from the user's own history by shared weights, so a new user needs no training and the last
    click changes the next list. With ``private_user_vector`` a vector per user, kept on the device, is added; with
    ``history = 0`` the vector is all there is (classic matrix factorisation), and a new user starts at zero.

    A modality is read as frozen features or through an encoder that is trained along: a shared one makes the values of
    both sides; a private adapter U, [width, d] per user and kept on the device, adds the pooled frozen features of the
    own history times U to the state, so that no user needs item tables of their own.

    Own content (queries, photos) enters the state among the items, as an item without an id would; it is not an item
    in any other way.

    What people say about themselves (age band, region) has one shared row per answer; the rows of a person's answers
    are added to every state. No answer adds nothing.

    For ratings the history counts by how much better each item was rated than expected, and the person's own mean
    deviation is one more coordinate of the state.

    Args:
        features: the public catalogue.
        section: widths, fusion, ids, pooling, scales.
        seed: of the initial weights.
        ratings: predict ratings instead of ranking.
        answers: what people may say about themselves, the answers of all attributes together; 0: they are not asked.

    Attributes:
        own_fusion: the head that ``model.fusion = "default"`` takes.
        fuses_early: items are one vector before they meet the user; a head that weighs by user weighs by item alone.
        output: the article's output non-linearity for ratings; a ranking keeps the logit.
        linear: nothing but the fusion head stands between features and tables.
    """

    own_fusion: ClassVar[str] = "concat"
    fuses_early: ClassVar[bool] = False
    output: ClassVar[Literal["sigmoid", "relu"]] = "sigmoid"
    linear: ClassVar[bool] = False

    def __init__(
        self, features: ItemFeatures, section: ModelSection, *, seed: int, ratings: bool = False, answers: int = 0
    ) -> None:
        super().__init__(features, section.dimensions)
        self.section = section
        self.ratings = ratings
        generator = torch_generator(seed, "initial weights")
        self.encoders = nn.ModuleDict(
            {
                name: plan.build(torch_generator(seed, "tower", name))
                for name, plan in features.planned(Scope.SHARED).items()
            }
        )
        self.static = section.history == 0
        if not self.static:
            self.history_head = self.new_head(self.history_modalities(), generator, meets_user=False)
        self.target_head = self.new_head(self.target_modalities(), generator, meets_user=not self.fuses_early)
        with torch.no_grad():
            # Both sides of a modality start alike: what a person touched then points at its own kind.
            for name, weight in self.target_head.project.items():
                if not self.static and name in self.history_head.project:
                    weight.copy_(self.history_head.project[name])
        if section.item_ids:
            shape = (features.item_count, section.dimensions)
            ids = torch.randn(shape, generator=generator) * ID_SCALE
            if not self.static:
                self.history_ids = nn.Parameter(ids)
            self.target_ids = nn.Parameter(torch.randn(shape, generator=generator) * ID_SCALE)
        self.item_bias = nn.Parameter(torch.zeros(features.item_count))
        if not self.static:
            self.pooling = HistoryPooling(section.dimensions, section.decays, section.history)
        # Private parameters hold places; their values come with every batch, from the device's own store.
        self.user_vector = nn.Parameter(torch.zeros(section.dimensions)) if section.private_user_vector else None
        self.private_adapters = nn.ParameterDict(
            {
                name: nn.Parameter(torch.zeros(plan.width, section.dimensions))
                for name, plan in features.planned(Scope.PRIVATE).items()
            }
        )
        self.person_rows = nn.Parameter(torch.zeros(answers, section.dimensions)) if answers else None
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
        return self.fuses_early or type(self.target_head).score is FusionHead.score

    @property
    def modality_columns(self) -> int:
        return len(self.features.names) + self.section.item_ids

    @property
    def private_dimensions(self) -> int:
        """The user vector (d numbers), then each private adapter row by row (width · d)."""
        vector = 0 if self.user_vector is None else self.dimensions
        return vector + sum(adapter.numel() for adapter in self.private_adapters.values())

    def history_modalities(self) -> tuple[str, ...]:
        return () if self.section.history == 0 else self.target_modalities()

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

    def item_values(self, known: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        return self._through_encoders(self.features.frozen, dict(known or {}))

    @property
    def rowwise(self) -> bool:
        return not self.encoders

    def row_parameters(self) -> tuple[str, ...]:
        if not self.section.item_ids:
            return ("item_bias",)
        return ("item_bias", "target_ids") if self.static else ("history_ids", "item_bias", "target_ids")

    def projections(self) -> tuple[Projection, ...]:
        if self.private_adapters:  # these read the features themselves
            return ()
        sides = (
            {"target": self.target_head} if self.static else {"history": self.history_head, "target": self.target_head}
        )
        return tuple(
            Projection(f"{side}_head.project.{name}", side, name, self.section.content_scale)
            for side, head in sides.items()
            for name in head.project
            if name not in self.encoders
        )

    def linear_tables(self, present: Tensor) -> LinearTables | None:
        section = self.section
        if (
            self.static
            or not self.linear
            or self.encoders
            or self.private_adapters
            or self.ratings
            or section.similarity != "dot"
        ):
            return None
        sides = []
        for head, history in ((self.history_head, True), (self.target_head, False)):
            if not isinstance(head, ConcatFusion):
                return None
            read, columns = self.inputs(head, self.item_values(), present, history=history)
            own = columns[:, -1] if section.item_ids else columns.new_zeros(len(columns))
            sides.append(LinearSide(head.design([one for one in read if isinstance(one, Tensor)], columns), own))
        answers = None if self.person_rows is None else "person_rows"
        return LinearTables(
            sides[0],
            sides[1],
            section.bias_scale,
            self.pooling.weights,
            "pooling.mix",
            answers,
            self.user_vector is not None,
        )

    def attended_tables(self, present: Tensor) -> AttendedTables | None:
        head = self.target_head
        if self.fuses_early or self.encoders or self.ratings or not isinstance(head, AttentionFusion):
            return None
        with torch.no_grad():
            read, columns = self.inputs(head, self.item_values(), present, history=False)
            vectors, weights, _ = head.attended(read, columns) if head.modalities else ([], columns, columns)
            modalities = [
                AttendedModality(f"target_head.project.{name}", value, vector.detach())
                if isinstance(value, Tensor) and name in head.project
                else AttendedModality("target_ids", None, vector.detach())
                for name, value, vector in zip(head.modalities, read, vectors, strict=True)
            ]
        names = (f"target_head.{name}" for name in ("user_query", "item_query", "missing"))
        count = columns.sum(-1, keepdim=True)
        return AttendedTables(tuple(modalities), weights, count, *names, bias=self.section.bias_scale)

    def history_side(self, values: Mapping[str, Tensor], present: Tensor) -> Tensor:
        if self.static:
            return present.new_zeros(*present.shape[:-1], 0)
        history = self._with_adapted(self.history_vectors(values, present), values, present)
        if self.ratings:
            history = torch.cat([history, (self.item_bias * self.section.bias_scale)[..., None]], dim=-1)
        return history

    def target_side(self, values: Mapping[str, Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        target = self.target_table(values, present)
        bias = self.item_bias * self.section.bias_scale
        if self.section.similarity == "cosine":
            target = functional.normalize(target, dim=-1) / self.section.temperature
        return target, bias + self.rating_offset if self.ratings else bias

    def history_vectors(self, values: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """[items, d] of the history side, from ``item_values`` and [items, modality_columns]."""
        return self.history_head(*self.inputs(self.history_head, values, present, history=True))

    def own_vectors(self, values: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """[rows, d] of the history side for own content, which is no node of any graph and has no id.

        Args:
            values: as ``item_values``, of the rows; the id's are zeros.
            present: [rows, modality_columns], 0 in the id's column.
        """
        return self.history_head(*self.inputs(self.history_head, values, present, history=True))

    def target_table(self, values: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """[items, width] of the target side."""
        read, columns = self.inputs(self.target_head, values, present, history=False)
        return self.target_head(read, columns) if self.fuses_early else self.target_head.table(read, columns)

    def inputs(
        self, head: FusionHead, values: Mapping[str, Tensor], present: Tensor, *, history: bool
    ) -> tuple[list[Values], Tensor]:
        """What a head reads of ``item_values``, ids included, and its columns of ``present``."""
        scale = self.section.content_scale
        read = {name: value if isinstance(value, KnownProduct) else value * scale for name, value in values.items()}
        if self.section.item_ids and ID not in read:
            read[ID] = self.history_ids if history else self.target_ids
        names = (*self.features.names, ID)
        columns = [names.index(name) for name in head.modalities]
        return [read[name] for name in head.modalities], present[..., columns]

    def present(self, mask: Tensor | None) -> Tensor:
        present = self.features.present
        if self.section.item_ids:
            present = torch.cat([present, present.new_ones(present.shape[0], 1)], dim=1)
        return present if mask is None else present * mask

    def user_states(self, vectors: Tensor, batch: HistoryBatch) -> Tensor:
        if batch.own and not self.static:
            vectors = self._with_own(vectors, batch.own)
        if not self.ratings:
            return self.pooled(vectors, batch)
        expected = self.rating(self.rating_offset + vectors[..., -1])
        surprise = (batch.ratings - expected) * batch.known
        states = self.pooled(vectors[..., :-1] * surprise[..., None] * 4, batch)
        before = self.pooling.before(batch).to(surprise.dtype)
        deviation = (before * surprise[:, None, :]).sum(-1) / (before.sum(-1) + RATINGS_BEFORE_TRUST)
        return torch.cat([states, (deviation * self.deviation_slope)[..., None]], dim=-1)

    def pooled(self, vectors: Tensor, batch: HistoryBatch) -> Tensor:
        """States [users, states, d] from the history, what is private and what people say of themselves added."""
        states = self._with_person(self._with_private(vectors, batch), batch)
        return functional.normalize(states, dim=-1) if self.section.similarity == "cosine" else states

    def _with_private(self, vectors: Tensor, batch: HistoryBatch) -> Tensor:
        """[users, states, d] of the history and the private parameters."""
        if self.static:
            return batch.user_vectors[:, None].expand(-1, batch.positions.shape[1], -1)
        states = self.pooling(vectors[..., : self.dimensions], batch)
        place = 0
        if self.user_vector is not None:
            place = self.dimensions
            states = states + batch.user_vectors[:, None, :place]
        if self.private_adapters:
            content = self.pooling.unmixed(vectors[..., self.dimensions :], batch)
            adapters = batch.user_vectors[:, place:].unflatten(1, (-1, self.dimensions))
            states = states + content @ adapters
        return states

    def _with_person(self, states: Tensor, batch: HistoryBatch) -> Tensor:
        """The states, moved by the rows of what each user says about the own person."""
        if self.person_rows is None or isinstance(batch.person, tuple):
            return states
        said = answers_said(batch.person, self.person_rows.shape[-2]).to(states.dtype)
        return states + said[:, None, :] @ self.person_rows

    def score(self, states: Tensor, tables: ItemTables) -> Tensor:
        taste, deviation = self._parted(states)
        bias = tables.bias if tables.bias.dim() == 1 else tables.bias[:, None]
        return self.match(taste, tables.target) + bias + deviation

    def score_candidates(self, states: Tensor, tables: ItemTables, candidates: Tensor) -> Tensor:
        taste, deviation = self._parted(states)
        rows, bias = tables.targets_of(candidates)
        return self.match_rows(taste, rows) + bias + deviation

    def match(self, states: Tensor, table: Tensor) -> Tensor:
        """[..., items] how well states [..., d] fit items, without bias."""
        if self.fuses_early:
            return states @ table.mT
        return self.target_head.score(self.target_head.query(states), table)

    def match_rows(self, states: Tensor, rows: Tensor) -> Tensor:
        """[..., candidates] of chosen table rows [..., candidates, width]."""
        if self.fuses_early:
            return (states[..., None, :] * rows).sum(-1)
        return self.target_head.score_rows(self.target_head.query(states), rows)

    def rating(self, scores: Tensor) -> Tensor:
        return torch.sigmoid(scores) if self.output == "sigmoid" else torch.relu(scores + 0.5)

    def scopes(self) -> dict[str, Scope]:
        private = [] if self.user_vector is None else ["user_vector"]
        private += [f"private_adapters.{name}" for name in self.private_adapters]
        return super().scopes() | dict.fromkeys(private, Scope.PRIVATE)

    def _with_own(self, vectors: Tensor, own: OwnEvents) -> Tensor:
        """The history vectors [users, events, width] with own content in its slots."""
        frozen, rows = dict(own.values), own.slots.shape
        # What own content lacks is zeros behind its encoder: one of raw inputs would read the whole catalogue.
        lacking = {
            name: vectors.new_zeros(*rows, width) for name, width in self.features.widths.items() if name not in frozen
        }
        columns = [own.present[name] if name in frozen else vectors.new_zeros(rows) for name in self.features.names]
        if self.section.item_ids:
            lacking[ID] = vectors.new_zeros(*rows, self.dimensions)
            columns.append(vectors.new_zeros(rows))
        values, present = self._through_encoders(frozen, lacking), torch.stack(columns, dim=-1)
        found = self._with_adapted(self.own_vectors(values, present), values, present) * own.known[..., None]
        items = 1 - torch.zeros_like(vectors[..., 0]).scatter_add(1, own.slots, own.known)
        return (vectors * items[..., None]).scatter_add(1, own.slots[..., None].expand_as(found), found)

    def _through_encoders(self, frozen: dict[str, Tensor], held: dict[str, Tensor]) -> dict[str, Tensor]:
        """Values by modality, those of trained encoders computed where they are not ``held``."""
        for name, plan in self.features.planned(Scope.SHARED).items():
            if name not in held:
                held[name] = plan.vectors(self.encoders[name], frozen[name])
        return frozen | held

    def _with_adapted(self, history: Tensor, values: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """History vectors, followed by what private adapters read."""
        for name in self.private_adapters:
            column = present[..., self.features.names.index(name), None]
            history = torch.cat([history, values[name] * column * self.section.content_scale], dim=-1)
        return history

    def _parted(self, states: Tensor) -> tuple[Tensor, Tensor | float]:
        return (states[..., :-1], states[..., -1:]) if self.ratings else (states, 0.0)
