"""The product of an item graph with node vectors, differentiable and batched over users."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfed.models.item_graph import ItemGraph


class GraphProduct:
    """Σ_j w_ij h_j over the neighbours j of every item i, as a sparse matrix product.

    Args:
        graph: the neighbours.
    """

    def __init__(self, graph: ItemGraph) -> None:
        self.graph = graph
        matrix = graph.matrix()
        self._matrices: dict[np.dtype[Any], tuple[Any, Any]] = {np.dtype(np.float32): (matrix, matrix.T.tocsr())}

    def __call__(self, nodes: Tensor) -> Tensor:
        """[items, d] from [items, d]."""
        result: Tensor = _Product.apply(nodes, self, False)
        return result

    def transposed(self, nodes: Tensor) -> Tensor:
        """[items, d] from [items, d]: every item gives to its neighbours."""
        result: Tensor = _Product.apply(nodes, self, True)
        return result

    def matrix(self, dtype: np.dtype[Any], *, transposed: bool) -> Any:
        """[items, items], a sparse array of SciPy in compressed rows."""
        if dtype not in self._matrices:
            plain, turned = self._matrices[np.dtype(np.float32)]
            self._matrices[dtype] = plain.astype(dtype), turned.astype(dtype)
        return self._matrices[dtype][transposed]

    def __deepcopy__(self, memo: object) -> GraphProduct:
        """Copies of a model share the graph: it never changes."""
        del memo
        return self


class _Product(torch.autograd.Function):
    """The product, whose derivative is the product with the transposed matrix; users become further columns."""

    @staticmethod
    def forward(nodes: Tensor, product: GraphProduct, transposed: bool) -> Tensor:
        dense = nodes.detach().numpy()
        return torch.from_numpy(product.matrix(dense.dtype, transposed=transposed) @ dense)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, GraphProduct, bool], output: Tensor) -> None:
        del output
        _, ctx.product, ctx.transposed = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _Product.apply(gradient, ctx.product, not ctx.transposed), None, None

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: tuple[int | None, None, None], nodes: Tensor, product: GraphProduct, transposed: bool
    ) -> tuple[Tensor, int]:
        del info
        axis = in_dims[0]
        if axis is None:
            raise RuntimeError("vmap without batched nodes")
        columns = nodes.movedim(axis, 1)
        flat = _Product.apply(columns.flatten(1), product, transposed)
        return flat.view(columns.shape), 1
