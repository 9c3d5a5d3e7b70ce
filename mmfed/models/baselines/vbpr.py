"""VBPR: matrix factorisation with a second, content-based taste (He and McAuley 2016), trained in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from mmfed.data.schema import Features, Interactions
from mmfed.models.baselines.base import needed_content
from mmfed.models.baselines.early_stopping import hold_out
from mmfed.models.baselines.pairwise import Pairs, Schedule, fit_pairwise, squares, vector_table
from mmfed.models.baselines.static_vectors import StaticVectorBaseline, StaticVectors
from mmfed.rng import numpy_generator, torch_generator
from mmfed.types import FloatArray


class VBPR(StaticVectorBaseline):
    """score(u, j) = γ_u · γ_j + b_j + θ_u · (E f_j) + β' · f_j over all modalities, not images alone.

    f_j holds each present modality, scaled to mean square norm 1 over the items that have it, and one column per
    modality that says whether it is there (constant columns change no ranking and are left out): an absent modality
    adds nothing, and the model learns what its absence means instead of taking zeros for an average item.
    A user without training history gets b_j + β' · f_j; an item without interactions gets its content score.

    Args:
        dimensions: width of γ and of θ each.
        epochs, batch, learning_rate: see ``Schedule``.
        weight_decay: L2 weight on γ, θ and b of every triple.
    """

    name: ClassVar[str] = "vbpr"
    drawn: ClassVar[bool] = True
    reads_content: ClassVar[bool] = True

    def __init__(
        self,
        dimensions: int = 64,
        *,
        epochs: int = 60,
        patience: int = 10,
        learning_rate: float = 0.003,
        weight_decay: float = 0.003,
        batch: int = 2048,
    ) -> None:
        self.dimensions = dimensions
        self.schedule = Schedule(epochs, batch, learning_rate, weight_decay, patience)
        self.schedule.check(self.name, dimensions)

    def fit(self, train: Interactions, *, seed: int, features: Mapping[str, Features] | None = None) -> Self:
        content = torch.from_numpy(content_matrix(needed_content(self, features, train)))
        generator = torch_generator(seed, "baseline", self.name)
        held = hold_out(train, numpy_generator(seed, "baseline", self.name, "held out"))
        user_vectors = vector_table(train.user_count, 2 * self.dimensions, generator)
        item_vectors = vector_table(train.item_count, self.dimensions, generator)
        item_bias = torch.zeros(train.item_count, requires_grad=True)
        projection = vector_table(content.shape[1], self.dimensions, generator)
        content_bias = torch.zeros(content.shape[1], requires_grad=True)
        parameters = [user_vectors, item_vectors, item_bias, projection, content_bias]

        def pairs(users: Tensor, liked: Tensor, other: Tensor) -> Pairs:
            person, liked_vectors, other_vectors = user_vectors[users], item_vectors[liked], item_vectors[other]
            apart = content[liked] - content[other]
            differences = torch.cat([liked_vectors - other_vectors, apart @ projection], dim=1)
            margin = (person * differences).sum(1) + item_bias[liked] - item_bias[other] + apart @ content_bias
            penalty = squares(person, liked_vectors, other_vectors, item_bias[liked], item_bias[other])
            return Pairs(margin, penalty)

        def tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            with torch.no_grad():
                items = torch.cat([item_vectors, content @ projection], dim=1)
                return user_vectors.detach().numpy(), items.numpy(), (item_bias + content @ content_bias).numpy()

        def quality() -> float:
            users, items, bias = tables()
            return held.ndcg(lambda some: users[some] @ items.T + bias)

        watched = quality if len(held.users) else None
        fit_pairwise(held.rest, parameters, pairs, self.schedule, generator, quality=watched)
        users, items, bias = tables()
        self._fitted = StaticVectors(users, items, bias, train.lengths > 0, newcomer=bias)
        return self


def content_matrix(features: Mapping[str, Features]) -> FloatArray:
    """[items, widths and presence columns] float32: present values at mean square norm 1, then presence where it
    varies."""
    parts: list[FloatArray] = []
    for one in features.values():
        values = np.where(one.present[:, None], one.values, 0.0).astype(np.float64)
        norm = np.sqrt(np.square(values).sum() / max(1, one.present.sum()))
        parts.append(values / norm if norm > 0 else values)
        if one.present.any() and not one.present.all():
            parts.append(one.present[:, None].astype(np.float64))
    return np.concatenate(parts, axis=1).astype(np.float32)
