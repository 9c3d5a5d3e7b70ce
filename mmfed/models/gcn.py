"""``gcn``: graph convolution (article: h^{l+1}_i = σ(Σ_{j∈N(i)} w_ij h^l_j + b))."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from mmfed.data.schema import Features
from mmfed.errors import ExitCode, MmfedError
from mmfed.models.base import ItemFeatures, LinearSide, LinearTables
from mmfed.models.graph_product import GraphProduct
from mmfed.models.item_graph import ItemGraph, content_graph
from mmfed.models.tower import TowerRecommender


class GraphConvolution(TowerRecommender):
    """Nodes are items and users; images, texts and attributes enter as the items' first layer and as their edges.

    The item–item graph joins every item with its nearest neighbours in frozen content space: public, built alike by
    every party (``model.graph = "learned"`` or ``"both"`` takes the one-shot co-occurrence's, made by the coordinator
    and sent along). User–item edges exist on the user's device only, where the last convolution, from items to the
    user, is the pooling of the own history. No field of a message holds an edge; what the numbers of an update tell is
    the business of the privacy mode (without one, a single device's update of the item biases shows its edges).

    h^{l+1} = Σ w_ij h^l_j + b_l with the identity for σ, and the output is the mean over layers, h^0 included
    (LightGCN, He et al. 2020), since plain stacking over-smooths.
    """

    fuses_early = True
    output = "relu"
    linear = True

    def build(self, generator: torch.Generator) -> None:
        del generator
        self.content_product = _content_product(self.features, self.section.neighbours)
        self.learned = self.section.graph != "content"
        if self.learned:
            shape = (self.item_count, self.section.neighbours)
            self.register_buffer("learned_neighbours", torch.zeros(shape))
            self.register_buffer("learned_weights", torch.zeros(shape))
        self.layer_bias = nn.Parameter(torch.zeros(2, self.section.layers, self.dimensions))

    @property
    def rowwise(self) -> bool:
        return False

    def linear_tables(self, present: Tensor) -> LinearTables | None:
        plain = super().linear_tables(present)
        if plain is None:
            return None
        products = self._products()

        def spread(side: LinearSide) -> LinearSide:
            ones = torch.ones_like(side.own)[:, None]
            # A bias of layer l reaches the layers after it, as a column of ones would.
            biases = [
                self._layers_summed(ones, products, self.section.layers - 1 - number)
                for number in range(self.section.layers)
            ]
            columns = [self._layers_summed(side.columns, products, self.section.layers), *biases]
            return LinearSide(
                torch.cat(columns, dim=1) / (self.section.layers + 1),
                side.own / (self.section.layers + 1),
                lambda nodes: self._layers_summed(nodes, products, self.section.layers, transposed=True),
            )

        return plain._replace(history=spread(plain.history), target=spread(plain.target))

    def history_vectors(self, values: Mapping[str, Tensor], present: Tensor) -> Tensor:
        return self._convolved(super().history_vectors(values, present), 0)

    def target_table(self, values: Mapping[str, Tensor], present: Tensor) -> Tensor:
        return self._convolved(super().target_table(values, present), 1)

    def _learned(self) -> ItemGraph:
        """The graph that the coordinator sent.

        Raises:
            MmfedError: it is no graph of these items.
        """
        neighbours, weights = self.get_buffer("learned_neighbours"), self.get_buffer("learned_weights")
        if not bool(((neighbours >= 0) & (neighbours < self.item_count) & weights.isfinite()).all()):
            raise MmfedError(
                ExitCode.FEDERATION,
                "the learned item graph names items that are not in the catalogue, or holds NaN.",
                "look at the coordinator: it does not run this version of mmfed.",
            )
        return ItemGraph(neighbours.long().numpy(), weights.float().numpy())

    def use_learned_graph(self, graph: ItemGraph) -> None:
        """Take the item–item graph of the one-shot co-occurrence (every number travels as float32)."""
        columns = graph.indices.shape[1]
        with torch.no_grad():
            self.get_buffer("learned_neighbours")[:, :columns] = torch.from_numpy(graph.indices).to(torch.float32)
            self.get_buffer("learned_weights")[:, :columns] = torch.from_numpy(graph.weights)

    def _convolved(self, nodes: Tensor, side: int) -> Tensor:
        """[items, d] mean over the layers."""
        products = self._products()
        total, layer = nodes, nodes
        for number in range(self.section.layers):
            layer = _mean(products, layer) + self.layer_bias[side, number]
            total = total + layer
        return total / (self.section.layers + 1)

    def _layers_summed(
        self, nodes: Tensor, products: tuple[GraphProduct, ...], layers: int, *, transposed: bool = False
    ) -> Tensor:
        """[items, n] Σ_k S^k · nodes for k = 0 … layers, S the neighbours' weights."""
        total, layer = nodes, nodes
        for _ in range(layers):
            layer = _mean(products, layer, transposed=transposed)
            total = total + layer
        return total

    def _products(self) -> tuple[GraphProduct, ...]:
        """The item graphs in use; of two the mean is taken."""
        if not self.learned:
            return (self.content_product,)
        learned = GraphProduct(self._learned())
        return (learned,) if self.section.graph == "learned" else (learned, self.content_product)


def _mean(products: tuple[GraphProduct, ...], nodes: Tensor, *, transposed: bool = False) -> Tensor:
    gathered = [product.transposed(nodes) if transposed else product(nodes) for product in products]
    return gathered[0] if len(gathered) == 1 else (gathered[0] + gathered[1]) / 2


_PRODUCTS: WeakKeyDictionary[ItemFeatures, dict[int, GraphProduct]] = WeakKeyDictionary()


def _content_product(features: ItemFeatures, neighbours: int) -> GraphProduct:
    """Of the content graph, built once per catalogue; only frozen features make edges, without any there is none."""
    held = _PRODUCTS.setdefault(features, {})
    if neighbours not in held:
        modalities = {
            name: Features(value.float().numpy(), features.present[:, column].numpy() > 0)
            for column, (name, value) in enumerate(features.frozen.items())
            if value.shape[1]
        }
        if modalities:
            graph = content_graph(modalities, neighbours=neighbours)
        else:
            itself = np.arange(features.item_count, dtype=np.int64)[:, None]
            graph = ItemGraph(itself, np.zeros(itself.shape, dtype=np.float32))
        held[neighbours] = GraphProduct(graph)
    return held[neighbours]
