"""BPR-MF: matrix factorisation with a pairwise ranking loss (Rendle et al. 2009), trained in one place."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import torch
from torch.nn import functional

from mmfed.data.schema import Interactions
from mmfed.errors import ExitCode, MmfedError
from mmfed.models.baselines.base import Baseline, check_catalogue, not_fitted
from mmfed.rng import torch_generator
from mmfed.types import FloatArray, IntArray

NEGATIVE_TRIES = 100  # only rows still without a negative are drawn again


class BPRMF(Baseline):
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

    def __init__(
        self,
        dimensions: int = 64,
        *,
        epochs: int = 40,
        learning_rate: float = 0.003,
        weight_decay: float = 0.003,
        batch: int = 2048,
    ) -> None:
        if min(dimensions, epochs, batch) < 1 or not learning_rate > 0 or not weight_decay >= 0:
            raise MmfedError(
                ExitCode.CONFIG,
                f"bpr_mf: dimensions {dimensions}, epochs {epochs}, batch {batch}, learning_rate {learning_rate}, "
                f"weight_decay {weight_decay} are not valid.",
                "take whole numbers >= 1, learning_rate > 0 and weight_decay >= 0.",
            )
        self.dimensions, self.epochs, self.batch = dimensions, epochs, batch
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self._fitted: tuple[FloatArray, FloatArray, FloatArray] | None = None

    def fit(self, train: Interactions, *, seed: int) -> Self:
        generator = torch_generator(seed, "baseline", "bpr_mf")
        user_vectors = _table(train.user_count, self.dimensions, generator)
        item_vectors = _table(train.item_count, self.dimensions, generator)
        item_bias = torch.zeros(train.item_count, requires_grad=True)
        optimiser = torch.optim.Adam([user_vectors, item_vectors, item_bias], lr=self.learning_rate, foreach=True)
        users = torch.from_numpy(train.user_of_row().astype(np.int64))
        positives = torch.from_numpy(np.asarray(train.items, dtype=np.int64))
        held = torch.unique(users * train.item_count + positives)
        for _ in range(self.epochs):
            order = torch.randperm(len(users), generator=generator)
            negatives = _negatives(users, held, train.item_count, generator)
            for rows in order.split(self.batch):
                # A user who has everything has no negative: nothing to rank.
                rows = rows[negatives[rows] >= 0]
                if len(rows) == 0:
                    continue
                person = user_vectors[users[rows]]
                liked, other = positives[rows], negatives[rows]
                liked_vectors, other_vectors = item_vectors[liked], item_vectors[other]
                margin = (person * (liked_vectors - other_vectors)).sum(1) + item_bias[liked] - item_bias[other]
                penalty = person.square().sum() + liked_vectors.square().sum() + other_vectors.square().sum()
                penalty = penalty + item_bias[liked].square().sum() + item_bias[other].square().sum()
                loss = functional.softplus(-margin).mean() + 0.5 * self.weight_decay * penalty / len(rows)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
        vectors = user_vectors.detach().numpy()
        vectors[train.lengths == 0] = 0.0  # an untrained vector is noise: such a user gets the item biases
        self._fitted = (vectors, item_vectors.detach().numpy(), item_bias.detach().numpy())
        return self

    def score(self, history: Interactions, users: IntArray) -> FloatArray:
        if self._fitted is None:
            raise not_fitted(self)
        user_vectors, item_vectors, item_bias = self._fitted
        check_catalogue(self, len(item_vectors), history)
        if history.user_count != len(user_vectors):
            raise MmfedError(
                ExitCode.FAULT,
                f"baseline 'bpr_mf' knows {len(user_vectors)} users, the history has {history.user_count}.",
                "score the users it was fitted on; a static user vector serves nobody else.",
            )
        return user_vectors[users] @ item_vectors.T + item_bias


def _table(rows: int, dimensions: int, generator: torch.Generator) -> torch.Tensor:
    return (0.05 * torch.randn(rows, dimensions, generator=generator)).requires_grad_()


def _negatives(users: torch.Tensor, held: torch.Tensor, item_count: int, generator: torch.Generator) -> torch.Tensor:
    """[interactions] an item outside the user's training history for each row; -1 where none was found.

    Args:
        held: sorted user · item_count + item of the training interactions.
    """
    negatives = torch.full_like(users, -1)
    open_rows = torch.arange(len(users))
    for _ in range(NEGATIVE_TRIES):
        draw = torch.randint(item_count, (len(open_rows),), generator=generator)
        cells = users[open_rows] * item_count + draw
        place = torch.searchsorted(held, cells).clamp(max=len(held) - 1)
        free = held[place] != cells
        negatives[open_rows[free]] = draw[free]
        open_rows = open_rows[~free]
        if len(open_rows) == 0:
            break
    return negatives
