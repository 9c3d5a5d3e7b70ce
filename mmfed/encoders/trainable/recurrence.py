"""LSTM and GRU as plain matrix products, which ``torch.func`` and Opacus can differentiate per person."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _Recurrence(nn.Module):
    """One layer, one direction; parameters have the names, shapes and order of ``torch.nn``'s own, so that state dicts
    are exchanged with ``torch.nn.LSTM``/``GRU`` and Opacus' ``DPLSTM``/``DPGRU``."""

    gates: int

    def __init__(self, inputs: int, hidden: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = hidden

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-(hidden**-0.5), hidden**-0.5, generator=generator))

        self.weight_ih_l0 = parameter(self.gates * hidden, inputs)
        self.weight_hh_l0 = parameter(self.gates * hidden, hidden)
        self.bias_ih_l0 = parameter(self.gates * hidden)
        self.bias_hh_l0 = parameter(self.gates * hidden)


class Lstm(_Recurrence):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), from a zero state."""

    gates = 4

    def forward(self, values: Tensor) -> Tensor:
        """Hidden states [n, steps, hidden] of inputs [n, steps, d]; step t depends on inputs up to t only."""
        prepared = values @ self.weight_ih_l0.T + (self.bias_ih_l0 + self.bias_hh_l0)
        state = cell = values.new_zeros(values.shape[0], self.hidden)
        states = []
        for incoming in prepared.unbind(1):  # differentiated as one stack; indexing would cost a whole tensor a step
            enter, forget, candidate, leave = (incoming + state @ self.weight_hh_l0.T).chunk(4, dim=1)
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(candidate)
            state = torch.sigmoid(leave) * torch.tanh(cell)
            states.append(state)
        return torch.stack(states, dim=1)


class Gru(_Recurrence):
    """Gated recurrent unit (Cho et al. 2014, in the form of cuDNN and PyTorch), from a zero state."""

    gates = 3

    def forward(self, values: Tensor) -> Tensor:
        """Hidden states [n, steps, hidden] of inputs [n, steps, d]; step t depends on inputs up to t only."""
        prepared = values @ self.weight_ih_l0.T + self.bias_ih_l0
        state = values.new_zeros(values.shape[0], self.hidden)
        states = []
        for incoming in prepared.unbind(1):
            reset_in, update_in, new_in = incoming.chunk(3, dim=1)
            reset_past, update_past, new_past = (state @ self.weight_hh_l0.T + self.bias_hh_l0).chunk(3, dim=1)
            update = torch.sigmoid(update_in + update_past)
            new = torch.tanh(new_in + torch.sigmoid(reset_in + reset_past) * new_past)
            state = (1 - update) * new + update * state
            states.append(state)
        return torch.stack(states, dim=1)
