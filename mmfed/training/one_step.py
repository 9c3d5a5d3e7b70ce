"""One clipped local step of any towers: the item tables are everybody's, and only norms are needed of each user.

The tables are computed once for all users. A user's gradient by the target table is pulled back through the towers one
user at a time, which stays near the processor, to get its norm; then the clipped sum is taken at the table and pulled
back once: no gradient per user and parameter is kept (Lee & Kifer 2021, "Scaling up Differentially Private Deep
Learning with Fast Per-Example Gradient Clipping").
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mmfed.config import TrainingSection
from mmfed.fusion.head import KnownProduct, Values
from mmfed.models.base import ItemTables, Recommender
from mmfed.training.batch import TrainingBatch
from mmfed.training.rows import KnownProjection, Parameters, RowTraining, Traced, bounded, distinct, squared_norms


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
        self._tower = _TargetTower(self, present)
        self._of_table = torch.zeros_like(self._tower.target, dtype=torch.float64)
        self._of_bias = torch.zeros_like(self._tower.bias, dtype=torch.float64)
        self._total: Parameters = {
            name: torch.zeros_like(value, dtype=torch.float64) for name, value in (self.shared | self.rows).items()
        }

    @property
    def bytes_of_a_user(self) -> int:
        """What a user's gradient by the target table takes."""
        return max(self._tower.target.nbytes, 1)

    def add(self, batch: TrainingBatch) -> Tensor:
        """Add the users of a batch; returns the gradients of their private vectors [users, p], not clipped."""
        users, items = len(batch.targets), self._tower.bias.shape[0]
        events = batch.histories.items if self.reads_history else batch.histories.items[:, :0]
        found, places = distinct(events.numpy(), items) if events.shape[1] else (events.numpy(), events.numpy())
        traced = Traced({}, users)
        shared = self.traced_shared(traced, batch)
        history = self.side(traced, shared, "history", self.present[0], events, torch.from_numpy(places))
        if batch.first_seen.shape[1]:
            candidates = None
            target = self._tower.target.expand(users, *self._tower.target.shape)
            bias = self._tower.bias.expand(users, items)
        else:
            candidates = torch.cat([batch.targets[:, :, None], batch.negatives], dim=2)
            target = functional.embedding(candidates, self._tower.target)
            bias = self._tower.bias[candidates]
        target, bias = target.detach().requires_grad_(), bias.detach().requires_grad_()
        own = batch.histories.user_vectors.detach().requires_grad_()
        batch = batch._replace(histories=batch.histories._replace(user_vectors=own))
        losses = self.stages.run(shared, "losses", ItemTables(history, target, bias), history, batch)
        loss = sum(losses.values(), torch.zeros(())).sum()
        leaves = [target, bias, own, *traced.leaves]
        of_target, of_bias, of_own, *gradients = torch.autograd.grad(
            loss, leaves, allow_unused=True, materialize_grads=False
        )
        into: Parameters = {}
        for name, gradient, deposit in zip(traced.names, gradients, traced.deposits, strict=True):
            if gradient is None:
                continue
            if name not in into:
                shape = self.shared[name].shape if name in self.shared else (found.shape[1], *self.rows[name].shape[1:])
                into[name] = gradient.new_zeros(users, *shape)
            deposit(into, gradient, 1.0)
        of_target = of_target.contiguous()  # of a product with the transposed table
        if candidates is not None:
            of_target, of_bias = self._by_item(candidates, of_target, of_bias)
        squares = torch.stack([self._tower.squares(*one) for one in zip(of_target, of_bias, strict=True)])
        for value in into.values():
            squares += squared_norms(value)
        exact = bounded(squares, self._bound, self._guard)
        self.within += int((exact >= 1).sum())
        factors = exact.to(of_target.dtype)
        self._of_table += (factors[None] @ of_target.flatten(1)).view_as(self._of_table)
        self._of_bias += factors @ of_bias
        for name, value in into.items():
            if name in self.shared:
                self._total[name] += (factors[None] @ value.flatten(1)).view_as(self._total[name])
            else:
                scaled = value * factors.view(-1, *[1] * (value.dim() - 1))
                self._total[name].index_add_(0, torch.from_numpy(found).flatten(), scaled.flatten(0, 1).double())
        return torch.zeros_like(own) if of_own is None else of_own

    def total(self) -> Parameters:
        """Float64 clipped sum of the users' gradients by parameter name."""
        target, bias = self._of_table.to(self._tower.target.dtype), self._of_bias.to(self._tower.bias.dtype)
        for name, gradient in self._tower.pulled(target, bias).items():
            self._total[name] += gradient
        return self._total

    def _by_item(self, candidates: Tensor, of_target: Tensor, of_bias: Tensor) -> tuple[Tensor, Tensor]:
        """The users' gradients by the target table [users, items, width] and the biases, from those by candidate."""
        users, (items, width) = len(candidates), self._tower.target.shape
        places = (candidates + (torch.arange(users) * items)[:, None, None]).flatten()
        table = of_target.new_zeros(users * items, width).index_add_(0, places, of_target.flatten(0, -2))
        bias = of_bias.new_zeros(users * items).index_add_(0, places, of_bias.flatten())
        return table.view(users, items, width), bias.view(users, items)


class _TargetTower:
    """The target side of the tables, and gradients pulled back through it."""

    def __init__(self, training: OneStep, present: Tensor) -> None:
        known = {modality: one for (side, modality), one in training.known.items() if side == "target"}
        leaves = {name: value.clone().requires_grad_() for name, value in (training.shared | training.rows).items()}
        products = {modality: one.product.clone().requires_grad_() for modality, one in known.items()}
        values: dict[str, Values] = dict(training.frozen)
        values |= {modality: KnownProduct(product) for modality, product in products.items()}
        target, bias = training.stages.run(leaves, "target", values, present)
        self._outputs = [one for one in (target, bias) if one.requires_grad]
        self._whole = [target.requires_grad, bias.requires_grad]
        self.target, self.bias = target.detach(), bias.detach()
        traced: list[tuple[str, Tensor, KnownProjection | None]] = [(name, leaf, None) for name, leaf in leaves.items()]
        traced += [(one.name, products[modality], one) for modality, one in known.items()]
        read = torch.autograd.grad(
            sum((one.sum() for one in self._outputs), torch.zeros(())),
            [leaf for _, leaf, _ in traced],
            retain_graph=True,
            allow_unused=True,
        )
        self._traced = [one for one, gradient in zip(traced, read, strict=True) if gradient is not None]

    def pulled(self, of_target: Tensor, of_bias: Tensor) -> Parameters:
        """Gradients by parameter name, from those of the table [items, width] and the biases [items]."""
        given = [one for one, whole in zip((of_target, of_bias), self._whole, strict=True) if whole]
        leaves = [leaf for _, leaf, _ in self._traced]
        found = torch.autograd.grad(self._outputs, leaves, given, retain_graph=True)
        return {
            name: gradient if projection is None else projection.values.mT @ gradient * projection.scale
            for (name, _, projection), gradient in zip(self._traced, found, strict=True)
        }

    def squares(self, of_target: Tensor, of_bias: Tensor) -> Tensor:
        """Float64 squared norm of ``pulled``."""
        found = self.pulled(of_target, of_bias).values()
        return torch.stack([torch.dot(one.flatten(), one.flatten()).double() for one in found]).sum()
