"""The user-item graph of the training interactions and light convolution on it (He et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from mmfed.data.schema import Interactions
from mmfed.types import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class InteractionGraph:
    """Who had what, each pair once; nodes are the users followed by the items.

    Attributes:
        users, items: [edges] int64.
        user_count, item_count: number of nodes on either side.
    """

    users: IntArray
    items: IntArray
    user_count: int
    item_count: int

    @property
    def popularity(self) -> FloatArray:
        """[items] float32 number of users of each item."""
        return np.bincount(self.items, minlength=self.item_count).astype(np.float32)

    @property
    def edge_weights(self) -> FloatArray:
        """[edges] float64, 1 / sqrt(degree of the user · degree of the item)."""
        user_degree = np.bincount(self.users, minlength=self.user_count)
        item_degree = np.bincount(self.items, minlength=self.item_count)
        return 1.0 / np.sqrt(user_degree[self.users] * item_degree[self.items].astype(np.float64))

    def matrix(self) -> sparse.csr_array:
        """[users + items, users + items] float32, symmetric: the normalised adjacency D^-½ A D^-½."""
        size = self.user_count + self.item_count
        weights = self.edge_weights.astype(np.float32)
        rows = np.concatenate([self.users, self.items + self.user_count])
        columns = np.concatenate([self.items + self.user_count, self.users])
        return sparse.csr_array((np.tile(weights, 2), (rows, columns)), shape=(size, size))

    def sample_edges(self, share: float, generator: np.random.Generator) -> InteractionGraph:
        """Degree-sensitive dropping (Zhou and Shen 2023, section 3.2): ``share`` of the edges, drawn without
        replacement with probability proportional to ``edge_weights``, so that edges of popular nodes go first."""
        count = round(share * len(self.users))
        # The smallest of exponentials with rate w are a draw without replacement in proportion to w.
        arrival = generator.exponential(size=len(self.users)) / self.edge_weights
        kept = np.sort(np.argsort(arrival, kind="stable")[:count])
        return InteractionGraph(self.users[kept], self.items[kept], self.user_count, self.item_count)


def interaction_graph(train: Interactions) -> InteractionGraph:
    """The graph of all training interactions; repeats count once."""
    cells = np.unique(train.user_of_row().astype(np.int64) * train.item_count + train.items)
    return InteractionGraph(cells // train.item_count, cells % train.item_count, train.user_count, train.item_count)


def layer_mean(matrix: sparse.csr_array, vectors: Tensor, layers: int) -> Tensor:
    """Mean of vectors, A·vectors, …, A^layers·vectors for a symmetric ``matrix`` A; differentiable in ``vectors``."""

    def mean(values: FloatArray) -> FloatArray:
        total = current = values
        for _ in range(layers):
            current = matrix @ current
            total = total + current
        return total / np.float32(layers + 1)

    return apply_linear(vectors, mean, mean)


def apply_linear(vectors: Tensor, forward: Any, adjoint: Any) -> Tensor:
    """``forward(vectors)`` for a linear map on arrays, whose gradient is its ``adjoint``.

    SciPy's product of a CSR matrix is as fast as torch's, whose sparse CSR tensors are experimental and warn.
    """
    return _Linear.apply(vectors, forward, adjoint)  # pyright: ignore[reportReturnType]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, forward: Any, adjoint: Any) -> Tensor:
        ctx.adjoint = adjoint
        return torch.from_numpy(np.ascontiguousarray(forward(vectors.detach().numpy())))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return torch.from_numpy(np.ascontiguousarray(ctx.adjoint(gradients[0].contiguous().numpy()))), None, None
