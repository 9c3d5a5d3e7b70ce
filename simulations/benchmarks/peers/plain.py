"""Plain loop: what a good engineer writes in PyTorch for one device, users one after another.

Only touched rows are gathered, copied and changed (features, ids, biases); the rest is a dozen small tensors. The
optimiser is an in-place subtraction, gradients come from ``torch.autograd.grad``, the clipped change is added to the
sum in place. Settings: one thread (more are slower at these sizes), float32, no compilation (shapes differ by user).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from simulations.benchmarks.peers.draws import pooled_step, sampled_steps
from simulations.benchmarks.peers.problem import Array, Problem
from simulations.benchmarks.peers.towers import gated, pooled_states, sampled_loss, softmax_loss

BIAS, IDS, HISTORY, MIX = "item_bias", "target_ids", "history_ids", "pooling.mix"


class PlainLoop:
    """Trains users one by one.

    Args:
        problem: what to train.

    Attributes:
        starts: [users, d] the private vectors before a training.
        vectors: [users, d] those after the last one.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._parameters = {name: torch.from_numpy(value) for name, value in problem.parameters.items()}
        self._features = torch.from_numpy(problem.features)
        self._projections = [name for name in self._parameters if name.startswith("target_head.project.")]
        self.starts = torch.from_numpy(problem.vectors)
        self.vectors = self.starts.clone()

    def total(self, users: range | None = None) -> dict[str, Tensor]:
        """Sum of the clipped changes by parameter name."""
        total = {name: torch.zeros_like(value) for name, value in self._parameters.items()}
        train = self._pooled if self._problem.settings.pooled else self._sampled
        for user in users if users is not None else range(self._problem.users):
            train(user, total)
        return total

    def use(self, parameters: dict[str, Array]) -> None:
        """Take over the shared parameters of a new round."""
        self._parameters = {name: torch.from_numpy(value) for name, value in parameters.items()}

    def _sampled(self, user: int, total: dict[str, Tensor]) -> None:
        settings, steps = self._problem.settings, sampled_steps(self._problem, user)
        touched, places = np.unique(np.concatenate([step.candidates for step in steps]), return_inverse=True)
        rows, flat = torch.from_numpy(touched), torch.from_numpy(places.reshape(-1, 1 + settings.negatives))
        names = [*self._projections, "target_head.gate", "target_head.gate_bias"] if self._projections else []
        before = {name: self._parameters[name] for name in names}
        before[BIAS] = self._parameters[BIAS].index_select(0, rows)
        if not names:
            before[IDS] = self._parameters[IDS].index_select(0, rows)
        now = {name: value.clone().requires_grad_() for name, value in before.items()}
        vector = self.starts[user].clone().requires_grad_()
        start = 0
        for step in steps:
            own = flat[start : start + len(step.candidates)]
            start += len(step.candidates)
            if names:
                values = self._features.index_select(0, torch.from_numpy(step.candidates.ravel()))
                fused = gated(now, self._projections, values.split(self._problem.widths, dim=1))
            else:
                fused = now[IDS].index_select(0, own.flatten())
            bias = now[BIAS].index_select(0, own.flatten()).view(own.shape)
            loss = sampled_loss(vector, fused, bias, torch.from_numpy(step.share))
            *gradients, of_vector = torch.autograd.grad(loss, [*now.values(), vector])
            with torch.no_grad():
                for value, gradient in zip(now.values(), gradients, strict=True):
                    value.sub_(gradient, alpha=settings.learning_rate)
                vector.sub_(of_vector, alpha=settings.private_learning_rate)
        with torch.no_grad():
            change = {name: value - before[name] for name, value in now.items()}
            factor = _clip_factor(list(change.values()), settings.clip_norm)
            for name, value in change.items():
                if name in (BIAS, IDS):
                    total[name].index_add_(0, rows, value, alpha=factor)
                else:
                    total[name].add_(value, alpha=factor)
            self.vectors[user] = vector.detach()

    def _pooled(self, user: int, total: dict[str, Tensor]) -> None:
        settings, step = self._problem.settings, pooled_step(self._problem, user)
        items = torch.from_numpy(self._problem.history(user))
        positions = torch.from_numpy(step.positions)
        touched, places = torch.unique(items, return_inverse=True)
        rows = self._parameters[HISTORY].index_select(0, touched).requires_grad_()
        mix, table, bias = (self._parameters[name].detach().requires_grad_() for name in (MIX, IDS, BIAS))
        history = rows.index_select(0, places)
        kept = torch.from_numpy(step.kept)
        states = pooled_states(history, mix, positions, kept, settings.decays, settings.history)
        loss = softmax_loss(states, table, bias, items[positions], positions, torch.from_numpy(step.first))
        gradients = torch.autograd.grad(loss, [rows, mix, table, bias])
        rate = settings.learning_rate
        scale = -rate * _clip_factor(list(gradients), settings.clip_norm / rate)
        total[HISTORY].index_add_(0, touched, gradients[0], alpha=scale)
        for name, gradient in zip((MIX, IDS, BIAS), gradients[1:], strict=True):
            total[name].add_(gradient, alpha=scale)


def _clip_factor(change: list[Tensor], clip_norm: float) -> float:
    norm = float(torch.nn.utils.get_total_norm(change))
    return min(1.0, clip_norm / norm) if norm > 0 else 1.0


def trainer(problem: Problem) -> Callable[[], dict[str, Array]]:
    """A function that trains all users once and gives the sum of their clipped changes."""
    loop = PlainLoop(problem)
    return lambda: {name: value.numpy() for name, value in loop.total().items()}
