"""The graph product is the sum over neighbours, its derivative the transposed sum, alone and for many users."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tiny_models import ITEMS, tiny_config, tiny_model
from torch.func import vjp, vmap

from mmfed.errors import MmfedError
from mmfed.models.graph_product import GraphProduct
from mmfed.models.item_graph import ItemGraph


def graph_of(items=9, neighbours=3, seed=0) -> ItemGraph:
    generator = np.random.default_rng(seed)
    indices = np.stack([generator.permutation(items)[:neighbours] for _ in range(items)])
    return ItemGraph(indices, generator.random((items, neighbours)).astype(np.float32))


def summed(graph: ItemGraph, nodes: torch.Tensor) -> torch.Tensor:
    weights = torch.from_numpy(graph.weights).to(nodes.dtype)
    return (weights[:, :, None] * nodes[torch.from_numpy(graph.indices)]).sum(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_against_the_sum_and_its_own_derivative(dtype):
    graph, generator = graph_of(), torch.Generator().manual_seed(1)
    product = GraphProduct(graph)
    nodes = torch.randn(9, 4, generator=generator, dtype=dtype, requires_grad=True)
    direction = torch.randn(9, 4, generator=generator, dtype=dtype)
    torch.testing.assert_close(product(nodes), summed(graph, nodes))
    (found,) = torch.autograd.grad((product(nodes) * direction).sum(), nodes)
    (expected,) = torch.autograd.grad((summed(graph, nodes) * direction).sum(), nodes)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_over_users(axis):
    graph, generator = graph_of(), torch.Generator().manual_seed(2)
    product = GraphProduct(graph)
    nodes = torch.randn(5, 9, 4, generator=generator, dtype=torch.float64)
    moved = nodes.movedim(0, axis)
    expected = torch.stack([summed(graph, one) for one in nodes])
    torch.testing.assert_close(vmap(product, in_dims=axis)(moved), expected)
    (pulled,) = vmap(vjp(product, nodes[0])[1])(nodes)
    backwards = torch.stack(
        [torch.autograd.functional.vjp(lambda x: summed(graph, x), nodes[0], v=one)[1] for one in nodes]
    )
    torch.testing.assert_close(pulled, backwards)


def test_copies_of_a_model_share_it():
    product = GraphProduct(graph_of())
    assert copy.deepcopy(product) is product


@pytest.mark.parametrize("wrong", [ITEMS, -1.0, float("nan")])
def test_a_graph_of_other_items_is_refused(wrong):
    config = tiny_config("model.name=gcn", "model.graph=learned", "one_shot.enabled=true", "privacy.mode=none")
    model = tiny_model(config)
    with torch.no_grad():
        model.get_buffer("learned_neighbours")[3, 0] = wrong
    with pytest.raises(MmfedError, match="learned item graph"):
        model.item_tables()
