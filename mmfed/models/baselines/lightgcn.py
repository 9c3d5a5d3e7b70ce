"""LightGCN: vectors of users and items smoothed over the user-item graph (He et al. 2020), trained in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Self

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from mmfed.data.schema import Features, Interactions
from mmfed.errors import ExitCode, MmfedError
from mmfed.models.baselines.early_stopping import hold_out
from mmfed.models.baselines.interaction_graph import InteractionGraph, interaction_graph, layer_mean
from mmfed.models.baselines.pairwise import Pairs, Schedule, fit_pairwise, squares, vector_table
from mmfed.models.baselines.static_vectors import StaticVectorBaseline, StaticVectors
from mmfed.rng import numpy_generator, torch_generator

Smoother = Callable[[sparse.csr_array, Tensor], Tensor]
"""Maps a normalised user-item graph and vectors [users + items, d] to final vectors of the same shape."""


class LightGCN(StaticVectorBaseline):
    """score(u, j) = e_u · e_j, where e is the mean of a node's own vector and its 1 … L-step neighbourhoods.

    Trained with BPR on the graph of the training set until the NDCG on a slice held out of the training set stops
    rising; the final vectors use the graph of the whole training set. History after training changes nothing, and a
    user without training history gets the items by popularity. The other settings were chosen on the validation splits
    of MovieLens-100K and TikTok.

    Args:
        dimensions: width of the vectors.
        layers: L, steps of propagation.
        epochs, batch, learning_rate: see ``Schedule``; ``patience``: see ``fit_pairwise``.
        weight_decay: L2 weight on the vectors before propagation of every triple.
    """

    name: ClassVar[str] = "lightgcn"
    drawn: ClassVar[bool] = True

    def __init__(
        self,
        dimensions: int = 64,
        *,
        layers: int = 3,
        epochs: int = 60,
        patience: int = 8,
        learning_rate: float = 0.02,
        weight_decay: float = 1e-4,
        batch: int = 4096,
    ) -> None:
        if layers < 0:
            raise MmfedError(ExitCode.CONFIG, f"lightgcn: layers {layers} is not valid.", "take layers >= 0.")
        self.dimensions, self.layers = dimensions, layers
        self.schedule = Schedule(epochs, batch, learning_rate, weight_decay, patience)
        self.schedule.check(self.name, dimensions)

    def fit(self, train: Interactions, *, seed: int, features: Mapping[str, Features] | None = None) -> Self:
        del features
        self._fitted = fit_smoothed(
            train, self.dimensions, self.schedule, lambda graph, vectors: layer_mean(graph, vectors, self.layers),
            path=(seed, "baseline", self.name),
        )  # fmt: skip
        return self


def fit_smoothed(
    train: Interactions,
    dimensions: int,
    schedule: Schedule,
    smooth: Smoother,
    *,
    path: tuple[int, str, str],
    sample: Callable[[InteractionGraph, np.random.Generator], InteractionGraph] = lambda graph, _: graph,
) -> StaticVectors:
    """Vectors trained with BPR through a smoother.

    Args:
        path: seed and purpose of the random numbers.
        sample: the graph of an epoch from the graph of the training interactions.
    """
    generator = torch_generator(*path)
    draws = numpy_generator(*path, "edges")
    held = hold_out(train, numpy_generator(*path, "held out"))
    whole, graph = interaction_graph(train), interaction_graph(held.rest)
    vectors = vector_table(train.user_count + train.item_count, dimensions, generator)
    full_matrix = epoch_matrix = graph.matrix()

    def before_epoch() -> None:
        nonlocal epoch_matrix
        chosen = sample(graph, draws)
        epoch_matrix = full_matrix if chosen is graph else chosen.matrix()

    def pairs(users: Tensor, liked: Tensor, other: Tensor) -> Pairs:
        nodes = (users, liked + train.user_count, other + train.user_count)
        final = smooth(epoch_matrix, vectors)
        person, liked_vectors, other_vectors = (final[node] for node in nodes)
        return Pairs((person * (liked_vectors - other_vectors)).sum(1), squares(*(vectors[node] for node in nodes)))

    def final_vectors(matrix: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            final = smooth(matrix, vectors).numpy()
        return final[: train.user_count], final[train.user_count :]

    def quality() -> float:
        users, items = final_vectors(full_matrix)
        return held.ndcg(lambda some: users[some] @ items.T)

    watched = quality if len(held.users) else None
    fit_pairwise(held.rest, [vectors], pairs, schedule, generator, before_epoch=before_epoch, quality=watched)
    users, items = final_vectors(whole.matrix())
    bias = np.zeros(train.item_count, dtype=np.float32)
    return StaticVectors(users, items, bias, train.lengths > 0, newcomer=whole.popularity)
