"""Server optimisers against torch.optim; the update of a round is the negative gradient."""

from __future__ import annotations

import pytest
import torch

from mmfed.config import ServerOptimiserSection
from mmfed.federated.optimiser import ServerOptimiser

SHAPES = {"a": (5, 3), "b": (7,)}


def updates(rounds=6):
    generator = torch.Generator().manual_seed(0)
    return [
        {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}
        for _ in range(rounds)
    ]


def start():
    return {
        name: torch.linspace(-1, 1, torch.Size(shape).numel()).double().reshape(shape) for name, shape in SHAPES.items()
    }


def run(section, given, *, everywhere=False):
    optimiser, parameters = ServerOptimiser(section, global_second_moment=everywhere), start()
    for update in given:
        parameters = optimiser.step(parameters, update)
    return parameters


def torch_run(make, given):
    parameters = {name: torch.nn.Parameter(value) for name, value in start().items()}
    optimiser = make(list(parameters.values()))
    for update in given:
        for name, parameter in parameters.items():
            parameter.grad = -update[name]
        optimiser.step()
    return parameters


def assert_equal(found, expected):
    for name in SHAPES:
        torch.testing.assert_close(found[name], expected[name].detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("epsilon", [1e-8, 1e-2])
def test_adam(weight_decay, epsilon):
    section = ServerOptimiserSection(name="fedadam", learning_rate=0.05, weight_decay=weight_decay, epsilon=epsilon)
    expected = torch_run(
        lambda p: torch.optim.AdamW(p, lr=0.05, betas=(0.9, 0.99), eps=epsilon, weight_decay=weight_decay), updates()
    )
    assert_equal(run(section, updates()), expected)


def test_adagrad():
    section = ServerOptimiserSection(name="fedadagrad", learning_rate=0.05, beta1=0.0, epsilon=1e-6)
    assert_equal(run(section, updates()), torch_run(lambda p: torch.optim.Adagrad(p, lr=0.05, eps=1e-6), updates()))


def test_averaging():
    section = ServerOptimiserSection(name="fedavg", learning_rate=0.7)
    assert_equal(run(section, updates()), torch_run(lambda p: torch.optim.SGD(p, lr=0.7), updates()))


def test_one_second_moment_for_the_whole_model():
    section = ServerOptimiserSection(name="fedadam", learning_rate=0.05)
    first, second = updates(1)[0], updates(2)[1]
    optimiser = ServerOptimiser(section, global_second_moment=True)
    before = optimiser.step(start(), first)
    after = optimiser.step(before, second)
    count = sum(value.numel() for value in first.values())
    squares = [float(sum(value.square().sum() for value in update.values())) / count for update in (first, second)]
    v = (0.99 * 0.01 * squares[0] + 0.01 * squares[1]) / (1 - 0.99**2)
    for name in SHAPES:
        m = (0.9 * 0.1 * first[name] + 0.1 * second[name]) / (1 - 0.9**2)
        torch.testing.assert_close(
            after[name] - before[name], 0.05 * m / (v**0.5 + section.epsilon), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("name", ["fedavg", "fedadam", "fedadagrad"])
@pytest.mark.parametrize("everywhere", [True, False])
def test_state_carries_on(name, everywhere):
    section = ServerOptimiserSection(name=name)
    whole = run(section, updates(), everywhere=everywhere)
    optimiser, parameters = ServerOptimiser(section, global_second_moment=everywhere), start()
    for update in updates()[:3]:
        parameters = optimiser.step(parameters, update)
    saved = {key: value.clone() for key, value in optimiser.state().items()}
    resumed = ServerOptimiser(section, global_second_moment=everywhere)
    resumed.restore(saved)
    for update in updates()[3:]:
        parameters = resumed.step(parameters, update)
    assert all(torch.equal(parameters[key], whole[key]) for key in SHAPES)


def test_a_zero_update_moves_nothing():
    for name in ("fedavg", "fedadam", "fedadagrad"):
        zero = {key: torch.zeros(shape).double() for key, shape in SHAPES.items()}
        found = run(ServerOptimiserSection(name=name), [zero, zero], everywhere=True)
        assert all(torch.equal(found[key], start()[key]) for key in SHAPES)


def test_precision_is_kept():
    parameters = {name: value.float() for name, value in start().items()}
    stepped = ServerOptimiser(ServerOptimiserSection(), global_second_moment=False).step(parameters, updates(1)[0])
    assert {value.dtype for value in stepped.values()} == {torch.float32}
