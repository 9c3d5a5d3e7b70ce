"""Recency pooling against the formula, and where its numbers stay finite."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.models.base import HistoryBatch
from mmfed.models.pooling import HistoryPooling

D = 3


def pool(vectors, kept, positions, *, decays=(0.5, 1.0), history=4):
    pooling = HistoryPooling(D, decays, history).double()
    count = vectors.shape[0]
    others = torch.zeros(positions.shape).double()
    batch = HistoryBatch(
        torch.zeros(kept.shape).long(), kept, kept, positions, others, torch.zeros(count, D).double(), kept
    )
    return pooling(vectors, batch)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 8), st.lists(st.booleans(), min_size=8, max_size=8), st.integers(0, 1000))
def test_against_the_formula(position, kept, seed):
    vectors = torch.randn(1, 8, D, generator=torch.Generator().manual_seed(seed)).double()
    found = pool(vectors, torch.tensor([kept]).double(), torch.tensor([[position]]))[0, 0]
    expected = torch.zeros(D).double()
    for decay in (0.5, 1.0):
        chosen = [s for s in range(max(0, position - 4), position) if kept[s]]
        weights = [decay ** (position - 1 - s) for s in chosen]
        if chosen:
            total = sum(w * vectors[0, s] for w, s in zip(weights, chosen, strict=True))
            expected = expected + total / sum(weights) ** 0.75 / 2
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_gradients_of_empty_and_faded_histories_are_finite():
    vectors = torch.randn(2, 2000, D).double().requires_grad_()
    kept = torch.zeros(2, 2000).double()
    kept[1, 0] = 1.0  # so long ago that 0.5 ** age is 0
    found = pool(vectors, kept, torch.tensor([[5], [1999]]), history=5000)
    found.sum().backward()
    assert torch.isfinite(vectors.grad).all()
    assert not found[0].any()


@pytest.mark.parametrize("longer", [10, 1000])
def test_a_longer_history_speaks_louder_but_not_linearly(longer):
    vectors = torch.ones(1, longer, D).double()
    one = pool(vectors, torch.ones(1, longer).double(), torch.tensor([[1]]), decays=(1.0,), history=5000)
    many = pool(vectors, torch.ones(1, longer).double(), torch.tensor([[longer]]), decays=(1.0,), history=5000)
    torch.testing.assert_close(many, one * longer**0.25)
