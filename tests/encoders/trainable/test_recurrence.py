"""The written-out LSTM and GRU are PyTorch's and Opacus' own."""

from __future__ import annotations

import pytest
import torch
from opacus.layers import DPGRU, DPLSTM
from torch import nn

from mmfed.encoders.trainable.recurrence import Gru, Lstm

KINDS = [(Lstm, nn.LSTM, DPLSTM), (Gru, nn.GRU, DPGRU)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("own", "torch_kind", "opacus_kind"), KINDS, ids=["lstm", "gru"])
def test_states_and_gradients_equal_both(own, torch_kind, opacus_kind, dtype):
    generator = torch.Generator().manual_seed(0)
    layer = own(5, 7, generator=generator).to(dtype)
    inputs = torch.randn(4, 11, 5, generator=generator).to(dtype)
    cotangent = torch.randn(4, 11, 7, generator=generator).to(dtype)
    layer(inputs).backward(cotangent)
    for kind in (torch_kind, opacus_kind):
        other = kind(5, 7, batch_first=True).to(dtype)
        other.load_state_dict(layer.state_dict())  # strict: names and shapes are the same
        states, _ = other(inputs)
        torch.testing.assert_close(layer(inputs), states, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-13)
        states.backward(cotangent)
        gradients = dict(other.named_parameters())
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("own", [Lstm, Gru])
def test_a_step_depends_on_what_came_before_only(own):
    generator = torch.Generator().manual_seed(0)
    layer = own(3, 4, generator=generator)
    inputs = torch.randn(2, 6, 3, generator=generator)
    changed = torch.cat([inputs[:, :4], torch.full((2, 2, 3), 9.0)], dim=1)
    assert torch.equal(layer(inputs)[:, :4], layer(changed)[:, :4])
    assert not torch.allclose(layer(inputs)[:, 4:], layer(changed)[:, 4:])
