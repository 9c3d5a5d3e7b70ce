"""The plain loop gives the definition's sum, clipped users among it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmfed.training.reference import train_users
from simulations.benchmarks.differences import relative
from simulations.benchmarks.peers import plain
from simulations.benchmarks.peers.comparison import knows
from simulations.benchmarks.peers.export import problem_of
from simulations.benchmarks.workloads import WORKLOADS

KNOWN = [workload for workload in WORKLOADS if knows(workload)]


@pytest.mark.parametrize("workload", KNOWN, ids=lambda one: one.name)
def test_the_sum_and_the_private_vectors_are_the_definitions(workload, small):
    workload, config, model, histories, vectors, work = small(workload)
    problem = problem_of(workload, config, model, histories, vectors.numpy())
    expected = train_users(model, histories, vectors, work)
    loop = plain.PlainLoop(problem)
    assert relative(loop.total(), expected.total) <= 1e-5
    torch.testing.assert_close(loop.vectors, expected.user_vectors, atol=1e-6, rtol=1e-5)
    free = replace(work, privacy=work.privacy.model_copy(update={"clip_norm": 1e9}))
    assert relative(train_users(model, histories, vectors, free).total, expected.total) > 0.01  # the clip was felt


def test_a_second_training_starts_from_the_same_vectors(small):
    workload, config, model, histories, vectors, _ = small(KNOWN[1])
    train = plain.trainer(problem_of(workload, config, model, histories, vectors.numpy()))
    first, second = train(), train()
    assert relative(first, second) == 0


def test_repeated_items_are_masked_from_their_first_event_on(small):
    """A person who buys one thing again and again: drawn negatives and the softmax's mask meet repeats."""
    for workload in KNOWN:
        workload, config, model, histories, vectors, work = small(workload)
        repeated = replace(histories, items=histories.items % 7)
        problem = problem_of(workload, config, model, repeated, vectors.numpy())
        expected = train_users(model, repeated, vectors, work).total
        assert relative(plain.trainer(problem)(), expected) <= 1e-5, workload.name
