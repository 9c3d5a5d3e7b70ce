"""A FREEDOM-like model (Zhou and Shen 2023): LightGCN plus a frozen item-item graph from content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from mmfed.data.schema import Features, Interactions
from mmfed.errors import ExitCode, MmfedError
from mmfed.models.baselines.base import needed_content
from mmfed.models.baselines.interaction_graph import InteractionGraph, apply_linear, layer_mean
from mmfed.models.baselines.lightgcn import fit_smoothed
from mmfed.models.baselines.pairwise import Schedule
from mmfed.models.baselines.static_vectors import StaticVectorBaseline
from mmfed.models.item_graph import content_graph
from mmfed.types import FloatArray


class Freedom(StaticVectorBaseline):
    """score(u, j) = e_u · (e_j + h_j): e as in ``LightGCN``, h_j from the own vectors of j's content neighbours.

    As published: the item graph is frozen and mean-combined over the modalities, and each epoch trains on a
    degree-sensitive sample of the user-item edges. Left out: the published auxiliary loss on projected features.
    Stopping, newcomers and the choice of settings are those of ``LightGCN``; an item without interactions lives on h_j,
    and an item without any modality on e_j.

    Args:
        dimensions: width of the vectors.
        layers: steps of propagation on the user-item graph.
        item_layers: steps of propagation on the item graph.
        neighbours: of every item in the item graph.
        kept_edges: share of the user-item edges an epoch trains on, in (0, 1].
        epochs, patience, batch, learning_rate: see ``Schedule``.
        weight_decay: L2 weight on the vectors before propagation of every triple.
    """

    name: ClassVar[str] = "freedom"
    drawn: ClassVar[bool] = True
    reads_content: ClassVar[bool] = True

    def __init__(
        self,
        dimensions: int = 64,
        *,
        layers: int = 3,
        item_layers: int = 1,
        neighbours: int = 10,
        kept_edges: float = 0.3,
        epochs: int = 60,
        patience: int = 8,
        learning_rate: float = 0.01,
        weight_decay: float = 1e-4,
        batch: int = 4096,
    ) -> None:
        if layers < 0 or item_layers < 0 or neighbours < 1 or not 0 < kept_edges <= 1:
            raise MmfedError(
                ExitCode.CONFIG,
                f"freedom: layers {layers}, item_layers {item_layers}, neighbours {neighbours}, kept_edges "
                f"{kept_edges} are not valid.",
                "take layers and item_layers >= 0, neighbours >= 1 and 0 < kept_edges <= 1.",
            )
        self.dimensions, self.layers, self.item_layers = dimensions, layers, item_layers
        self.neighbours, self.kept_edges = neighbours, kept_edges
        self.schedule = Schedule(epochs, batch, learning_rate, weight_decay, patience)
        self.schedule.check(self.name, dimensions)

    def fit(self, train: Interactions, *, seed: int, features: Mapping[str, Features] | None = None) -> Self:
        content = needed_content(self, features, train)
        alike = content_graph(content, neighbours=self.neighbours).matrix()
        reverse = sparse.csr_array(alike.T)

        def smooth(graph: sparse.csr_array, vectors: Tensor) -> Tensor:
            own = vectors[train.user_count :]
            near = apply_linear(own, lambda v: self._spread(alike, v), lambda v: self._spread(reverse, v))
            users = torch.zeros(train.user_count, self.dimensions)
            return layer_mean(graph, vectors, self.layers) + torch.cat([users, near])

        def sample(graph: InteractionGraph, draws: np.random.Generator) -> InteractionGraph:
            return graph if self.kept_edges == 1 else graph.sample_edges(self.kept_edges, draws)

        path = (seed, "baseline", self.name)
        self._fitted = fit_smoothed(train, self.dimensions, self.schedule, smooth, path=path, sample=sample)
        return self

    def _spread(self, matrix: sparse.csr_array, values: FloatArray) -> FloatArray:
        for _ in range(self.item_layers):
            values = matrix @ values
        return values
