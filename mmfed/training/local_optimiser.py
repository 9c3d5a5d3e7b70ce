"""The local optimisers as functions, for many users at once; ``torch.optim`` defines them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from mmfed.config import TrainingSection

Parameters = dict[str, Tensor]

MOMENTUM = 0.9
BETAS, FLOOR = (0.9, 0.999), 1e-5  # a smaller floor magnifies the rounding of tiny gradients, which are many
_OWN = " private vector"  # among the names; no parameter has a space in its own


class LocalOptimiser:
    """Steps of one optimiser over tensors [users, *shape]; equal to a ``torch.optim`` instance per user.

    Args:
        training: which optimiser, and the step sizes.
        names: of the shared parameters.
    """

    def __init__(self, training: TrainingSection, names: Iterable[str]) -> None:
        self._name = training.optimiser
        self._rates = dict.fromkeys(names, training.learning_rate) | {_OWN: training.private_learning_rate}
        self._first: Parameters = {}
        self._second: Parameters = {}
        self._steps = 0

    def step(self, gradients: Parameters, of_own: Tensor, active: Tensor) -> tuple[Parameters, Tensor]:
        """How values and private vectors move; those of users whose ``active`` [users] is false do not.

        Users stop for good: once inactive, a user is never active again.
        """
        self._steps += 1
        moves = {name: self._move(name, gradient, active) for name, gradient in gradients.items()}
        return moves, self._move(_OWN, of_own, active)

    def _move(self, name: str, gradient: Tensor, active: Tensor) -> Tensor:
        if self._name == "sgd":  # without a valid position there is no gradient either
            return gradient * -self._rates[name]
        move = gradient
        if self._name == "momentum":
            move = gradient if self._steps == 1 else self._first[name] * MOMENTUM + gradient
            self._first[name] = move
        else:
            first = self._averaged(self._first, name, gradient, BETAS[0])
            second = self._averaged(self._second, name, gradient * gradient, BETAS[1])
            denominator = (second / (1 - BETAS[1] ** self._steps)).sqrt_() + FLOOR
            move = first / (1 - BETAS[0] ** self._steps) / denominator
        return move * (-self._rates[name] * active.to(move.dtype).view(-1, *[1] * (move.dim() - 1)))

    def _averaged(self, held: Parameters, name: str, new: Tensor, beta: float) -> Tensor:
        held[name] = new * (1 - beta) if self._steps == 1 else held[name] * beta + new * (1 - beta)
        return held[name]


def torch_optimiser(name: Literal["sgd", "momentum", "adam"], groups: list[dict[str, object]]) -> torch.optim.Optimizer:
    """The same as an optimiser of PyTorch.

    Args:
        groups: parameter groups with their ``lr``.
    """
    if name == "adam":
        return torch.optim.Adam(groups, betas=BETAS, eps=FLOOR)
    return torch.optim.SGD(groups, lr=1.0, momentum=MOMENTUM if name == "momentum" else 0.0)
