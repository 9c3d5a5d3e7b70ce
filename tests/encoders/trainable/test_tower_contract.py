"""What every trainable encoder must do, whatever it reads."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from opacus import GradSampleModule
from opacus.validators import ModuleValidator
from torch import Tensor
from torch.func import functional_call, grad, vjp, vmap
from torch.utils._pytree import tree_map
from tower_cases import CASES, Case, N, generator

DTYPES = (torch.float32, torch.float64)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def rows(inputs: Any, index: Any) -> Any:
    return tree_map(lambda tensor: tensor[index], inputs)


def parameters(tower: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in tower.named_parameters()}


def one_loss(tower: torch.nn.Module, values: dict[str, Tensor], one: Any, weights: Tensor) -> Tensor:
    """A curved loss of a single item; its outputs count differently."""
    vector = functional_call(tower, values, (tree_map(lambda tensor: tensor[None], one),))[0]
    return (vector * weights).sum() + vector.square().sum()


def by_loop(tower: torch.nn.Module, inputs: Any, weights: Tensor) -> dict[str, Tensor]:
    """Per-item gradients by plain backward passes, one item at a time."""
    found: dict[str, list[Tensor]] = {name: [] for name, _ in tower.named_parameters()}
    for row in range(N):
        tower.zero_grad()
        vector = tower(rows(inputs, slice(row, row + 1)))[0]
        ((vector * weights[row]).sum() + vector.square().sum()).backward()
        for name, parameter in tower.named_parameters():
            found[name].append(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone())
    tower.zero_grad()
    return {name: torch.stack(values) for name, values in found.items()}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_shape_precision_and_finite(case: Case, dtype: torch.dtype) -> None:
    tower = case.tower(dtype=dtype)
    vectors = tower(case.inputs(generator(2)))
    assert vectors.shape == (N, tower.width)
    assert vectors.dtype == dtype
    assert torch.isfinite(vectors).all()
    assert tower(rows(case.inputs(generator(2)), slice(0, 0))).shape == (0, tower.width)


def test_items_do_not_see_each_other(case: Case) -> None:
    tower, inputs = case.tower(dtype=torch.float64), case.inputs(generator(2))
    alone = torch.cat([tower(rows(inputs, slice(row, row + 1))) for row in range(N)])
    torch.testing.assert_close(alone, tower(inputs), rtol=1e-12, atol=1e-12)


def test_weights_come_from_the_generator_alone(case: Case) -> None:
    if case.name == "lora":
        case.build(generator())  # its BERT draws once, which is the test's own doing
    before = torch.get_rng_state()
    first, second, other = (dict(case.build(generator(seed)).named_parameters()) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_running_draws_nothing_and_changes_no_input(case: Case) -> None:
    tower, inputs = case.tower().train(), case.inputs(generator(2))
    kept, before = copy.deepcopy(inputs), torch.get_rng_state()
    first, second = tower(inputs), tower(inputs)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    tree_map(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), inputs, kept)


def test_every_parameter_is_trainable_and_used(case: Case) -> None:
    tower = case.tower(dtype=torch.float64)
    assert all(parameter.requires_grad for parameter in tower.parameters())
    tower(case.inputs(generator(2))).square().sum().backward()
    for name, parameter in tower.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_state_dict_holds_the_parameters_only_and_round_trips(case: Case) -> None:
    tower, fresh = case.tower(), case.build(generator(9))
    assert set(tower.state_dict()) == {name for name, _ in tower.named_parameters()}
    if case.name == "kept-words":  # word vectors that are kept come from their file, not from a checkpoint
        fresh.words.kept = tower.words.kept
    fresh.load_state_dict(tower.state_dict())
    inputs = case.inputs(generator(2))
    assert torch.equal(fresh(inputs), tower(inputs))


def test_copies_share_frozen_weights_and_nothing_else(case: Case) -> None:
    tower, inputs = case.tower(), case.inputs(generator(2))
    copied, before = copy.deepcopy(tower), tower(inputs)
    assert type(copied) is type(tower)
    assert torch.equal(copied(inputs), before)
    assert all(a is b for a, b in zip(tower.buffers(), copied.buffers(), strict=True))
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter += 1.0
    assert torch.equal(tower(inputs), before)
    copied.double()
    assert torch.equal(tower(inputs), before)
    assert copied(inputs).dtype == torch.float64


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_per_item_equal_a_loop(case: Case, dtype: torch.dtype) -> None:
    tower, inputs = case.tower(dtype=dtype), case.inputs(generator(2))
    weights = torch.randn(N, tower.width, generator=generator(5)).to(dtype)
    per_item = vmap(grad(lambda values, one, weight: one_loss(tower, values, one, weight)), in_dims=(None, 0, 0))
    assert_same(per_item(parameters(tower), inputs, weights), by_loop(tower, inputs, weights), TOLERANCE[dtype] * 10)


@pytest.mark.parametrize("dtype", DTYPES)
def test_users_with_parameters_of_their_own(case: Case, dtype: torch.dtype) -> None:
    """Several local steps: every user has a copy of the parameters, the catalogue is common."""
    tower, inputs, users = case.tower(dtype=dtype), case.inputs(generator(2)), 3
    towers = [case.tower(seed, dtype=dtype) for seed in range(users)]
    stacked = {
        name: torch.stack([dict(one.named_parameters())[name].detach() for one in towers])
        for name, _ in tower.named_parameters()
    }
    if case.name == "kept-words":
        towers = [copy.deepcopy(tower) for _ in towers]
        for user, one in enumerate(towers):
            one.load_state_dict({name: value[user] for name, value in stacked.items()})
    weights = torch.randn(users, N, tower.width, generator=generator(5)).to(dtype)

    def loss(values: dict[str, Tensor], weight: Tensor) -> Tensor:
        vectors = functional_call(tower, values, (inputs,))
        return (vectors * weight).sum() + vectors.square().sum()

    found = vmap(grad(loss))(stacked, weights)
    for user, one in enumerate(towers):
        vectors = one(inputs)
        wanted = torch.autograd.grad((vectors * weights[user]).sum() + vectors.square().sum(), list(one.parameters()))
        names = [name for name, _ in one.named_parameters()]
        assert_same(
            {name: found[name][user] for name in names}, dict(zip(names, wanted, strict=True)), TOLERANCE[dtype] * 10
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_pull_backs_of_many_users_through_one_forward_pass(case: Case, dtype: torch.dtype) -> None:
    """One local step: all users share the forward pass, and each has a gradient of its own of the item vectors."""
    tower, inputs = case.tower(dtype=dtype), case.inputs(generator(2))
    vectors, pull_back = vjp(lambda values: functional_call(tower, values, (inputs,)), parameters(tower))
    cotangents = torch.randn(4, *vectors.shape, generator=generator(5)).to(dtype)
    (found,) = vmap(pull_back)(cotangents)
    names = [name for name, _ in tower.named_parameters()]
    for user, cotangent in enumerate(cotangents):
        wanted = torch.autograd.grad(tower(inputs), list(tower.parameters()), cotangent)
        assert_same(
            {name: found[name][user] for name in names}, dict(zip(names, wanted, strict=True)), TOLERANCE[dtype] * 10
        )


def test_opacus_accepts_it(case: Case) -> None:
    tower = case.build(generator()).train()
    assert ModuleValidator.validate(tower, strict=False) == []
    assert GradSampleModule.validate(tower, strict=False) == []


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")  # Opacus hooks the first layer too
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_per_item_equal_opacus(case: Case, dtype: torch.dtype) -> None:
    tower, inputs = case.tower(dtype=dtype).train(), case.inputs(generator(2))
    weights = torch.randn(N, tower.width, generator=generator(5)).to(dtype)
    wanted = by_loop(copy.deepcopy(tower), inputs, weights)
    wrapped = GradSampleModule(tower, loss_reduction="sum")
    vectors = wrapped(inputs)
    ((vectors * weights).sum() + vectors.square().sum()).backward()
    found = {name.removeprefix("_module."): value.grad_sample for name, value in wrapped.named_parameters()}
    assert_same(found, wanted, TOLERANCE[dtype])
