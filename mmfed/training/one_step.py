"""One clipped local step of any towers: the item tables are everybody's, and only norms are needed of each user.

The tables are computed once for all users. A user's gradient by the target table is pulled back through the towers one
user at a time, which stays near the processor, to get its norm; then the clipped sum is taken at the table and pulled
back once: no gradient per user and parameter is kept (Lee & Kifer 2021, "Scaling up Differentially Private Deep
Learning with Fast Per-Example Gradient Clipping").
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmfed.config import TrainingSection
from mmfed.models.base import Recommender
from mmfed.training.attended import OfAttention
from mmfed.training.batch import SAMPLED, TrainingBatch, objective_of
from mmfed.training.hidden import OfHidden
from mmfed.training.rows import Parameters, RowTraining, Traced, bounded, distinct, squared_norms
from mmfed.training.target_gradients import ByAutograd, OfProducts, TargetGradients


class OneStep(RowTraining):
    """Clipped sums of user gradients, chunk by chunk.

    Args:
        model: ``rowwise`` and ``batched``, no parameter in both sides of its tables.
        training: the objective.
        present: [items, modality_columns] what the towers may read.
        bound: on the norm of a user's gradient.
        guard: added to the norm before the bound is divided by it.
    """

    def __init__(
        self, model: Recommender, training: TrainingSection, present: Tensor, *, bound: float, guard: float
    ) -> None:
        super().__init__(model, training, [present])
        self._bound, self._guard = bound, guard
        self.within = 0  # users so far whose gradient was within the bound
        self._target = self._target_gradients(present)
        self._total: Parameters = {
            name: torch.zeros_like(value, dtype=torch.float64) for name, value in (self.shared | self.rows).items()
        }

    def _target_gradients(self, present: Tensor) -> TargetGradients:
        if objective_of(self.model, self.section) == "softmax" and not self.model.ratings:
            attended = self.model.attended_tables(present)
            if attended is not None:
                return OfAttention(self, attended)
            if self.model.one_vector_per_item:
                return OfProducts(self, present)
        hidden = self.model.hidden_tables()
        if hidden is not None and objective_of(self.model, self.section) in SAMPLED:
            return OfHidden(self, hidden, present)
        return ByAutograd(self, present)

    @property
    def bytes_of_a_user(self) -> int:
        """What is kept of a user until the norm is known."""
        return self._target.bytes_of_a_user

    def add(self, batch: TrainingBatch) -> Tensor:
        """Add the users of a batch; returns the gradients of their private vectors [users, p], not clipped."""
        users = len(batch.targets)
        events = batch.histories.items if self.reads_history else batch.histories.items[:, :0]
        empty = events.numpy()
        found, places = distinct(empty, self.model.item_count) if events.shape[1] else (empty, empty)
        traced = Traced({}, users)
        shared = self.traced_shared(traced, batch)
        history = self.side(traced, shared, "history", self.present[0], events, torch.from_numpy(places))
        own = batch.histories.user_vectors.detach().requires_grad_()
        batch = batch._replace(histories=batch.histories._replace(user_vectors=own))
        states = self.stages.run(shared, "states", history, batch.histories)
        of_states, squares, into = self._target.of(states.detach(), batch)
        # Without a history and private vectors a state is a constant.
        leaves = [own, *traced.leaves] if states.requires_grad else []
        of_own, *gradients = torch.autograd.grad(states, leaves, of_states, allow_unused=True) if leaves else [None]
        for name, gradient, deposit in zip(traced.names, gradients, traced.deposits, strict=False):
            if gradient is None:
                continue
            if name not in into:
                shape = self.shared[name].shape if name in self.shared else (found.shape[1], *self.rows[name].shape[1:])
                into[name] = gradient.new_zeros(users, *shape)
            deposit(into, gradient, 1.0)
        for value in into.values():
            squares = squares + squared_norms(value)
        exact = bounded(squares, self._bound, self._guard)
        self.within += int((exact >= 1).sum())
        factors = exact.to(states.dtype)
        self._target.add(factors)
        for name, value in into.items():
            if name in self.shared:
                self._total[name] += (factors[None] @ value.flatten(1)).view_as(self._total[name])
            else:
                scaled = value * factors.view(-1, *[1] * (value.dim() - 1))
                self._total[name].index_add_(0, torch.from_numpy(found).flatten(), scaled.flatten(0, 1).double())
        return torch.zeros_like(own) if of_own is None else of_own

    def total(self) -> Parameters:
        """Float64 clipped sum of the users' gradients by parameter name."""
        for name, gradient in self._target.total().items():
            self._total[name] += gradient
        return self._total
