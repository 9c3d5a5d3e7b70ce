"""BPR-MF: matrix factorisation with a pairwise ranking loss (Rendle et al. 2009), trained in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor

from mmfed.data.schema import Features, Interactions
from mmfed.models.baselines.pairwise import Pairs, Schedule, fit_pairwise, squares, vector_table
from mmfed.models.baselines.static_vectors import StaticVectorBaseline, StaticVectors
from mmfed.rng import torch_generator


class BPRMF(StaticVectorBaseline):
    """score(u, j) = p_u · q_j + b_j with a static user vector: history after training changes nothing.

    Negatives are uniform over the items outside the user's training history; validation and test items are among them.
    The defaults were chosen on the validation split of MovieLens-100K.

    Args:
        dimensions: width of the vectors.
        epochs: passes over the interactions.
        weight_decay: L2 weight on the vectors and bias of every (user, positive, negative) triple.
        batch: triples per step.
    """

    name: ClassVar[str] = "bpr_mf"
    drawn: ClassVar[bool] = True

    def __init__(
        self,
        dimensions: int = 64,
        *,
        epochs: int = 40,
        learning_rate: float = 0.003,
        weight_decay: float = 0.003,
        batch: int = 2048,
    ) -> None:
        self.dimensions = dimensions
        self.schedule = Schedule(epochs, batch, learning_rate, weight_decay)
        self.schedule.check(self.name, dimensions)

    def fit(self, train: Interactions, *, seed: int, features: Mapping[str, Features] | None = None) -> Self:
        del features
        generator = torch_generator(seed, "baseline", self.name)
        user_vectors = vector_table(train.user_count, self.dimensions, generator)
        item_vectors = vector_table(train.item_count, self.dimensions, generator)
        item_bias = torch.zeros(train.item_count, requires_grad=True)

        def pairs(users: Tensor, liked: Tensor, other: Tensor) -> Pairs:
            person, liked_vectors, other_vectors = user_vectors[users], item_vectors[liked], item_vectors[other]
            margin = (person * (liked_vectors - other_vectors)).sum(1) + item_bias[liked] - item_bias[other]
            return Pairs(margin, squares(person, liked_vectors, other_vectors, item_bias[liked], item_bias[other]))

        fit_pairwise(train, [user_vectors, item_vectors, item_bias], pairs, self.schedule, generator)
        users, items, bias = (table.detach().numpy() for table in (user_vectors, item_vectors, item_bias))
        self._fitted = StaticVectors(users, items, bias, train.lengths > 0, newcomer=bias)
        return self
