"""The contract of a trainable recommender.

Training, evaluation and serving know a model through four steps: ``item_tables`` (public items to tensors, once per
round for everybody), ``user_states`` (a history to states), ``score`` (states to scores of all items) and ``scopes``
(which parameters may leave a device).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmfed.encoders.trainable.plan import TowerPlan


class Scope(StrEnum):
    """Where a parameter may live."""

    SHARED = "shared"  # aggregated by the server
    PRIVATE = "private"  # never leaves the device


@dataclass(frozen=True, eq=False)
class ItemLabels:
    """Public labels of the items, for auxiliary tasks.

    Attributes:
        targets: [items, classes] float, rows of known items sum to 1.
        known: [items] float, 1 where the item has the label.
    """

    targets: Tensor
    known: Tensor


@dataclass(frozen=True, eq=False)
class ItemFeatures:
    """The public catalogue as tensors.

    Attributes:
        values: one [items, width] float tensor per modality, in a fixed order.
        names: the modality names, same order.
        present: [items, modalities] float, 1 where the item has the modality.
        labels: public labels by name ("category", "price_band"); may be empty.
        plans: of the modalities with trained weights, with their raw inputs. The values of a modality that is trained
            from raw inputs alone have no column.
    """

    names: tuple[str, ...]
    values: tuple[Tensor, ...]
    present: Tensor
    labels: Mapping[str, ItemLabels] = field(default_factory=dict)
    plans: Mapping[str, TowerPlan] = field(default_factory=dict)

    @property
    def item_count(self) -> int:
        return int(self.present.shape[0])

    @property
    def widths(self) -> dict[str, int]:
        """Columns of what the recommender reads, by modality."""
        return {
            name: self.plans[name].width if name in self.plans else int(value.shape[1])
            for name, value in zip(self.names, self.values, strict=True)
        }

    @property
    def frozen(self) -> dict[str, Tensor]:
        """Frozen features by modality."""
        return dict(zip(self.names, self.values, strict=True))

    def planned(self, scope: Scope) -> dict[str, TowerPlan]:
        """The plans of trained weights of one scope, in the order of the modalities."""
        return {name: self.plans[name] for name in self.names if name in self.plans and self.plans[name].scope == scope}

    def __deepcopy__(self, memo: object) -> ItemFeatures:
        """Copies of a model share the catalogue: it never changes, and it is the largest thing there is."""
        del memo
        return self

    def to(self, dtype: torch.dtype) -> ItemFeatures:
        """The same features in another precision."""
        labels = {name: ItemLabels(one.targets.to(dtype), one.known.to(dtype)) for name, one in self.labels.items()}
        values = tuple(value.to(dtype) for value in self.values)
        return ItemFeatures(self.names, values, self.present.to(dtype), labels, self.plans)


def item_features(
    modalities: Mapping[str, tuple[np.ndarray, np.ndarray]],
    item_count: int,
    labels: Mapping[str, np.ndarray] | None = None,
    plans: Mapping[str, TowerPlan] | None = None,
) -> ItemFeatures:
    """Pack modality arrays ([items, width] values, [items] presence) into tensors; absent rows become zeros.

    Args:
        labels: [items, classes] bool by name; an all-false row is unknown, several labels share the weight.
        plans: of modalities with trained weights; their own presence takes precedence.
    """
    plans = dict(plans or {})
    modalities = {
        name: (value, present if (plan := plans.get(name)) is None or plan.present is None else plan.present)
        for name, (value, present) in modalities.items()
    }
    names = tuple(modalities)
    values = tuple(
        torch.from_numpy(np.where(present[:, None], value, 0).astype(np.float32))
        for value, present in modalities.values()
    )
    columns = [np.asarray(present, dtype=np.float32) for _, present in modalities.values()]
    present = np.stack(columns, axis=1) if columns else np.zeros((item_count, 0), dtype=np.float32)
    packed = {}
    for name, matrix in (labels or {}).items():
        count = matrix.sum(1, keepdims=True)
        targets = torch.from_numpy((matrix / np.maximum(count, 1)).astype(np.float32))
        packed[name] = ItemLabels(targets, torch.from_numpy((count[:, 0] > 0).astype(np.float32)))
    return ItemFeatures(names, values, torch.from_numpy(present), packed, plans)


class ItemTables(NamedTuple):
    """What all users share in a round; widths are the model's own business.

    Where users have different parameters, every user has tables of their own: all three get one more axis in front. Or
    the targets are the candidates of a batch, the true one first: [users, states, candidates, width] and no last axis.

    Attributes:
        history: [items, width] what an item says about the person who touched it.
        target: [items, width] what a state is compared with.
        bias: [items]
    """

    history: Tensor
    target: Tensor
    bias: Tensor

    def targets_of(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [*items, width] and biases [*items] of chosen items [users, …]."""
        if self.bias.dim() == 1:
            return functional.embedding(items, self.target), self.bias[items]
        if self.bias.dim() == 3:
            return self.target[:, :, : items.shape[2]], self.bias[:, :, : items.shape[2]]
        users, count, width = self.target.shape
        places = items + (torch.arange(users) * count).view(-1, *[1] * (items.dim() - 1))
        rows = self.target.reshape(users * count, width).index_select(0, places.flatten())
        return rows.view(*items.shape, width), self.bias.reshape(-1).index_select(0, places.flatten()).view(items.shape)


class LinearSide(NamedTuple):
    """One side of the tables where it is linear in its parameters: table = columns · θ + C · (own ⊙ rows).

    Attributes:
        columns: [items, columns] public numbers that multiply the stacked parameters θ [columns, d].
        own: [items] factor of the item's row of a row parameter; all 0 where there is none.
        pull: Cᵀ, from [items, n] to [items, n]; None for the identity.
    """

    columns: Tensor
    own: Tensor
    pull: Callable[[Tensor], Tensor] | None = None


class LinearTables(NamedTuple):
    """Tables that are linear in their parameters, no parameter in both sides, scored by a dot product plus the bias.

    States are pooled(history vectors) · mix, plus the user vector where there is one and the rows of the person's
    answers.

    Attributes:
        history, target: both sides.
        bias: the factor of the item bias parameter.
        pool: a batch's pooling in some number type: weights [users, states · decays, events] of the kept events and
            what their sums are divided by [users, states · decays, 1].
        mix: name of the parameter [decays, d, d].
        answers: name of the parameter [answers, d]; None where people are not asked.
        private: whether the user's private vector is added to the states.
    """

    history: LinearSide
    target: LinearSide
    bias: float
    pool: Callable[[HistoryBatch, torch.dtype], tuple[Tensor, Tensor]]
    mix: str
    answers: str | None
    private: bool


class AttendedModality(NamedTuple):
    """A modality of ``AttendedTables``.

    Attributes:
        parameter: name of its projection [width, d], or of its table [items, d].
        values: [items, width] what is projected; None of a table.
        vectors: [items, d] the projections, or the table.
    """

    parameter: str
    values: Tensor | None
    vectors: Tensor


class AttendedTables(NamedTuple):
    """A target side whose modalities are weighed by user and item (``fusion.attention``), plus the item bias.

    Attributes:
        modalities: in the order of the head's.
        weights: [items, modalities] the item's part of the weights.
        counts: [items, 1] present modalities.
        user_query, item_query: names of the parameters [modalities, d].
        missing: name of the parameter [d].
        bias: the factor of the item bias parameter.
    """

    modalities: tuple[AttendedModality, ...]
    weights: Tensor
    counts: Tensor
    user_query: str
    item_query: str
    missing: str
    bias: float


class HiddenTables(NamedTuple):
    """Scores from one hidden layer: out · ReLU(x · item_in + hidden_bias + standard(state) · user_in), plus the bias.

    Attributes:
        inputs: x [items, d] and biases [items] from ``item_values`` and ``present``, as ``Recommender.target_side``.
        standard: from states to what ``user_in`` multiplies.
        item_in, user_in, hidden_bias, out: names of the parameters [d, hidden], [d, hidden], [hidden], [hidden].
    """

    inputs: Callable[[Mapping[str, Tensor], Tensor], tuple[Tensor, Tensor]]
    standard: Callable[[Tensor], Tensor]
    item_in: str
    user_in: str
    hidden_bias: str
    out: str


class ResidualTables(NamedTuple):
    """A target table that ends with a linear layer: base + hidden · weights.

    Attributes:
        parts: base [items, d], hidden [items, hidden] and biases [items], as ``Recommender.target_side``.
        parameter: name of the parameter [sides, hidden, d] that holds the weights.
        side: where in it.
        scale: from the parameter to the weights.
    """

    parts: Callable[[Mapping[str, Tensor], Tensor], tuple[Tensor, Tensor, Tensor]]
    parameter: str
    side: int
    scale: float


class Projection(NamedTuple):
    """A parameter that only ever multiplies the frozen features of a modality, on one side of the tables.

    Attributes:
        parameter: its name; [width, d].
        side: "history" or "target".
        modality: whose features.
        scale: what the product is multiplied by.
    """

    parameter: str
    side: str
    modality: str
    scale: float


class OwnEvents(NamedTuple):
    """The events of a batch that are a person's own content instead of an item: private, never a target.

    Attributes:
        slots: [users, own] int64 index of the event, all of a user's different.
        known: [users, own] 1 where there is one, 0 where padded.
        values: [users, own, width] by modality, as the catalogue's frozen features are.
        present: [users, own] by modality, 1 where the content has it.
    """

    slots: Tensor
    known: Tensor
    values: Mapping[str, Tensor]
    present: Mapping[str, Tensor]


class HistoryBatch(NamedTuple):
    """Histories of several users, padded at the end.

    Attributes:
        items: [users, events] int64 item index in time order, 0 where padded and at own content.
        known: [users, events] 1 where there is an event, 0 where padded.
        kept: [users, events] 1 where the event may enter a state (history dropout sets 0); never 1 where padded.
        positions: [users, states] int64; state p is formed from the events before index ``positions[u, p]``.
        others: [users, states] 1 where a state is formed from all events but the one at its position instead.
        user_vectors: [users, p] everything private about a user as one vector, see ``Recommender.private_dimensions``.
        ratings: [users, events] ratings as a share of the rating range, in [0, 1]; 0.5 where there is none.
        own: which of the events are own content; empty for people without (None would be a leaf to ``vmap``).
        person: [users, attributes] int64, what each user says about the own person as rows of the model's table of
            answers, -1 where there is no answer; empty where nobody was asked.
    """

    items: Tensor
    known: Tensor
    kept: Tensor
    positions: Tensor
    others: Tensor
    user_vectors: Tensor
    ratings: Tensor
    own: OwnEvents | tuple[()] = ()
    person: Tensor | tuple[()] = ()


def answers_said(person: Tensor, answers: int) -> Tensor:
    """[users, answers] bool, which rows of the table of answers each user's [users, attributes] names.

    No row is -1: a missing answer counts nothing.
    """
    return (person[:, :, None] == torch.arange(answers)).any(1)


def rating_shares(values: np.ndarray, low_high: tuple[float, float]) -> np.ndarray:
    """Ratings as a share of their range, in [0, 1]; NaN stays NaN."""
    low, high = low_high
    return np.clip((values - low) / (high - low), 0.0, 1.0)


class Recommender(nn.Module, ABC):
    """A trainable multimodal recommender; see the module docstring for the four steps.

    Args:
        features: the public catalogue; kept outside the module's parameters, so it is never sent.
        dimensions: width d of states.

    Attributes:
        default_objective: what ``training.objective = "default"`` takes.
        batched: written for users with parameters of their own: where a parameter has one more axis in front, of users,
            so have the tables, states and scores. Training many users is then much faster. It takes ``[..., n, :]`` in
            place of ``[n]`` where a parameter is indexed, and ``[..., None, :]`` where one row meets many items.
        acts: whether it tells what a person does with an item (``action_logits``), a second task on the device.
        ratings: whether it predicts ratings instead of ranking.
    """

    acts: ClassVar[bool] = False
    default_objective: ClassVar[str] = "softmax"
    batched: ClassVar[bool] = False

    def __init__(self, features: ItemFeatures, dimensions: int) -> None:
        super().__init__()
        self.features = features
        self.dimensions = dimensions
        self.ratings = False

    @property
    def item_count(self) -> int:
        return self.features.item_count

    @property
    def modality_columns(self) -> int:
        """Columns of the masks that ``item_tables`` takes."""
        return len(self.features.names)

    @property
    def private_dimensions(self) -> int:
        """Numbers p that a user's private vector holds; 0 for a model without private state."""
        return 0

    def history_modalities(self) -> tuple[str, ...]:
        """What of an item, and of a person's own content, enters a user's state."""
        return self.features.names

    def item_values(self, known: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """[items, width] by modality: frozen features, or what trained encoders make of the public inputs.

        Args:
            known: modalities that were computed already.
        """
        return self.features.frozen | dict(known or {})

    @property
    def rowwise(self) -> bool:
        """Whether a row of the tables depends on that item alone, so that rows can be computed without the others."""
        return False

    def row_parameters(self) -> tuple[str, ...]:
        """Names of the shared parameters that hold one row per item (ids, biases)."""
        return ()

    def projections(self) -> tuple[Projection, ...]:
        """Parameters whose products with frozen features can be computed apart, and given as ``KnownProduct``."""
        return ()

    def present(self, mask: Tensor | None) -> Tensor:
        """[items, modality_columns] what the towers may read of each item."""
        return self.features.present if mask is None else self.features.present * mask

    def linear_tables(self, present: Tensor) -> LinearTables | None:
        """What makes the tables linear in their parameters; None for a model whose tables are not.

        Args:
            present: [items, modality_columns] what the towers may read.
        """
        del present
        return None

    def attended_tables(self, present: Tensor) -> AttendedTables | None:
        """The target side where its modalities are weighed by user and item; None for a model without.

        Args:
            present: [items, modality_columns] what the towers may read.
        """
        del present
        return None

    def hidden_tables(self) -> HiddenTables | None:
        """What scores a state and an item through a hidden layer; None for a model without."""
        return None

    def residual_tables(self) -> ResidualTables | None:
        """The target table's last layer; None for a model whose table ends otherwise."""
        return None

    @property
    def one_vector_per_item(self) -> bool:
        """Whether a score is the dot product of a state with the target's row, plus the bias."""
        return True

    @abstractmethod
    def history_side(self, values: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """``ItemTables.history`` from ``item_values`` and ``present``.

        Of a ``rowwise`` model any items may be given, with ``row_parameters`` substituted to match.
        """

    @abstractmethod
    def target_side(self, values: Mapping[str, Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """``ItemTables.target`` and ``ItemTables.bias``, as ``history_side``."""

    def item_tables(self, mask: Tensor | None = None, values: Mapping[str, Tensor] | None = None) -> ItemTables:
        """Tables of the whole catalogue.

        Args:
            mask: [items, modality_columns] 0 hides a modality of an item (modality dropout); None hides nothing.
            values: of ``item_values``; None computes them.
        """
        present = self.present(mask)
        values = self.item_values() if values is None else values
        return ItemTables(self.history_side(values, present), *self.target_side(values, present))

    @abstractmethod
    def user_states(self, vectors: Tensor, batch: HistoryBatch) -> Tensor:
        """States [users, states, width] of the batch's positions, from history vectors [users, events, width]."""

    def score(self, states: Tensor, tables: ItemTables) -> Tensor:
        """Scores [users, states, items] of every item for every state."""
        return states @ tables.target.T + tables.bias

    def score_candidates(self, states: Tensor, tables: ItemTables, candidates: Tensor) -> Tensor:
        """Scores [users, states, candidates] of chosen items only; ``candidates`` holds item indices."""
        rows, bias = tables.targets_of(candidates)
        return (states[:, :, None, :] * rows).sum(-1) + bias

    def rating(self, scores: Tensor) -> Tensor:
        """Scores as ratings, as a share of the rating range."""
        return torch.sigmoid(scores)

    def auxiliary_losses(self, values: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Further losses by task name, computed from public labels alone; empty for single-task models.

        Args:
            values: of ``item_values``; None computes them.
        """
        del values
        return {}

    def action_logits(self, states: Tensor, scores: Tensor) -> Tensor | None:
        """[users, states, actions] what the person does with items scored [users, states]; None without that task."""
        del states, scores
        return None

    def scopes(self) -> dict[str, Scope]:
        """Scope of every parameter; parameters of a user's own are declared private here."""
        return {name: Scope.SHARED for name, _ in self.named_parameters()}

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that may be put on the wire, in a fixed order (sorted by name)."""
        scopes = self.scopes()
        return {
            name: parameter
            for name, parameter in sorted(self.named_parameters(), key=lambda item: item[0])
            if scopes.get(name) is Scope.SHARED
        }

    def public_tensors(self) -> dict[str, Tensor]:
        """What the coordinator makes and sends with the parameters, and no device changes or returns; by name.

        Buffers that are not saved (frozen weights of an encoder) are everybody's own already.
        """
        saved = self.state_dict().keys()
        return {name: value for name, value in self.named_buffers() if name in saved}

    def forward(self, batch: HistoryBatch) -> Tensor:
        """Scores [users, states, items] from histories."""
        tables = self.item_tables()
        return self.score(self.user_states(tables.history[batch.items], batch), tables)
