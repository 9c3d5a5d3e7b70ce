"""Gradients of each user's loss on the target side, where all users score by the same tables (one local step).

``TargetGradients`` is the contract; ``ByAutograd`` differentiates any objective of any towers, ``OfSoftmax``
writes the derivatives of the full softmax by hand, in far fewer passes over the scores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mmfed.fusion.head import KnownProduct, Values
from mmfed.models.base import ItemTables, ResidualTables
from mmfed.training.batch import TrainingBatch
from mmfed.training.rows import KnownProjection, Parameters, RowTraining, Traced, squared_norms
from mmfed.training.softmax import SoftmaxDerivatives

Side = Callable[[Mapping[str, Any], Tensor], tuple[Tensor, Tensor]]


class TargetGradients(ABC):
    """From states to the gradients of a batch's users, and their clipped sums."""

    @property
    @abstractmethod
    def bytes_of_a_user(self) -> int:
        """What is kept of a user until the norm is known."""

    @abstractmethod
    def of(self, states: Tensor, batch: TrainingBatch) -> tuple[Tensor, Tensor, Parameters]:
        """Differentiate the users' losses.

        Args:
            states: [users, states, width], detached.

        Returns:
            Their gradients by the states; [users] float64 squared norms of their gradients by the parameters that are
            kept here; and those by the other parameters of the target side, by name [users, *shape].
        """

    @abstractmethod
    def add(self, factors: Tensor) -> None:
        """Add the gradients kept of the last batch, each user's times its factor [users]."""

    @abstractmethod
    def total(self) -> Parameters:
        """Float64 sums of what was kept, by parameter name."""


class HeadGradients:
    """Gradients by parameters that are not the tables', differentiated with one copy of them per user."""

    def __init__(self, training: RowTraining) -> None:
        self._training = training

    def traced(self, users: int) -> tuple[Traced, Parameters]:
        """Every shared parameter with an axis of users, and what was traced."""
        traced = Traced({}, users)
        passed = {one.name for one in self._training.known.values()}
        shared = {name: value for name, value in self._training.shared.items() if name not in passed}
        return traced, {name: traced.shared(name, value) for name, value in shared.items()}

    def of_action(
        self, states: Tensor, of_targets: Tensor, batch: TrainingBatch
    ) -> tuple[Tensor, Tensor, Parameters] | None:
        """Of the action task, by the states, by the targets' scores [users, states] and by name; None without it."""
        training = self._training
        if not (training.model.acts and training.section.action_weight and bool((batch.actions >= 0).any())):
            return None
        traced, shared = self.traced(len(states))
        leaves = [states.detach().requires_grad_(), of_targets.detach().requires_grad_()]
        loss = training.stages.run(shared, "action", *leaves, batch)
        of_states, of_scores, *rest = torch.autograd.grad(loss.sum(), [*leaves, *traced.leaves], allow_unused=True)
        named = zip(traced.names, rest, strict=True)
        return of_states, of_scores, {name: gradient for name, gradient in named if gradient is not None}


class ByAutograd(TargetGradients):
    """Any objective, any towers: the tables of the chosen candidates are differentiated, then pulled back."""

    def __init__(self, training: RowTraining, present: Tensor) -> None:
        self._training, self._heads, self._tower = training, HeadGradients(training), TargetTower(training, present)
        self._kept: tuple[Tensor, Tensor] = (self._tower.target, self._tower.bias)

    @property
    def bytes_of_a_user(self) -> int:
        return max(self._tower.target.nbytes, 1)

    def of(self, states: Tensor, batch: TrainingBatch) -> tuple[Tensor, Tensor, Parameters]:
        users, (items, width) = len(states), self._tower.target.shape
        traced, shared = self._heads.traced(users)
        if batch.first_seen.shape[1]:
            candidates = None
            target, bias = self._tower.target.expand(users, items, width), self._tower.bias.expand(users, items)
        else:
            candidates = torch.cat([batch.targets[:, :, None], batch.negatives], dim=2)
            target, bias = functional.embedding(candidates, self._tower.target), self._tower.bias[candidates]
        leaves = [one.detach().requires_grad_() for one in (target, bias, states)]
        target, bias, states = leaves
        losses = self._training.stages.run(shared, "losses of states", ItemTables(target, target, bias), states, batch)
        loss = sum(losses.values(), torch.zeros(())).sum()
        of_target, of_bias, of_states, *rest = torch.autograd.grad(loss, [*leaves, *traced.leaves], allow_unused=True)
        of_target = of_target.contiguous()  # of a product with the transposed table
        if candidates is not None:
            of_target, of_bias = self._by_item(candidates, of_target, of_bias)
        self._kept = of_target, of_bias
        squares = torch.stack([self._tower.squares(*one) for one in zip(of_target, of_bias, strict=True)])
        named = zip(traced.names, rest, strict=True)
        return of_states, squares, {name: gradient for name, gradient in named if gradient is not None}

    def add(self, factors: Tensor) -> None:
        self._tower.add(*self._kept, factors)

    def total(self) -> Parameters:
        return self._tower.total()

    def _by_item(self, candidates: Tensor, of_target: Tensor, of_bias: Tensor) -> tuple[Tensor, Tensor]:
        """The users' gradients by the target table [users, items, width] and the biases, from those by candidate."""
        users, (items, width) = len(candidates), self._tower.target.shape
        places = (candidates + (torch.arange(users) * items)[:, None, None]).flatten()
        table = of_target.new_zeros(users * items, width).index_add_(0, places, of_target.flatten(0, -2))
        bias = of_bias.new_zeros(users * items).index_add_(0, places, of_bias.flatten())
        return table.view(users, items, width), bias.view(users, items)


class OfSoftmax(TargetGradients):
    """The full softmax: scores and their derivatives by hand, a few users at a time.

    Args:
        training: the model and its parameters.
        items: in the catalogue.
    """

    def __init__(self, training: RowTraining, items: int) -> None:
        self._heads, self._items = HeadGradients(training), items

    def of(self, states: Tensor, batch: TrainingBatch) -> tuple[Tensor, Tensor, Parameters]:
        derivatives, of_states, squares = SoftmaxDerivatives(batch, self._items), torch.empty_like(states), []
        found: list[Parameters] = []
        self._forget()
        for chosen in derivatives.blocks(self.bytes_of_scores(states)):
            own, targets, weights = states[chosen], batch.targets[chosen], batch.weights[chosen]
            scores = self._scored(own)
            of_targets = derivatives(scores, chosen, scores).view(targets.shape)
            scores.mul_(weights.view(-1, 1))
            part = batch._replace(actions=batch.actions[chosen], weights=weights)  # what the task reads
            action = self._heads.of_action(own, of_targets, part)
            if action is not None:
                scores.scatter_add_(1, targets.view(-1, 1), action[1].view(-1, 1))
            of_states[chosen], of_kept, gradients = self._differentiated(own, scores.view(*targets.shape, self._items))
            squares.append(of_kept)
            if action is not None:
                of_states[chosen] += action[0]
                gradients = gradients | action[2]
            found.append(gradients)
        names = found[0] if found else {}
        return of_states, torch.cat(squares), {name: torch.cat([part[name] for part in found]) for name in names}

    @abstractmethod
    def bytes_of_scores(self, states: Tensor) -> int:
        """What the scores of a user take while they are differentiated."""

    @abstractmethod
    def _forget(self) -> None:
        """Forget what was kept of the last batch."""

    @abstractmethod
    def _scored(self, states: Tensor) -> Tensor:
        """[users · states, items] scores, for the caller to overwrite; the next call may reuse their memory."""

    @abstractmethod
    def _differentiated(self, states: Tensor, of_scores: Tensor) -> tuple[Tensor, Tensor, Parameters]:
        """As ``of``, from the derivatives [users, states, items] by the scores of the last call."""


class OfProducts(OfSoftmax):
    """Scores that are products of a state with an item's vector, plus the item's bias."""

    def __init__(self, training: RowTraining, present: Tensor) -> None:
        self._tower = TargetTower(training, present)
        super().__init__(training, len(self._tower.bias))
        self._buffer = self._tower.target.new_empty(0)
        self._kept: list[tuple[Tensor, Tensor]] = []

    @property
    def bytes_of_a_user(self) -> int:
        return max(self._tower.target.nbytes, 1)

    def bytes_of_scores(self, states: Tensor) -> int:
        return states.shape[1] * self._tower.bias.nbytes

    def _forget(self) -> None:
        self._kept = []

    def _scored(self, states: Tensor) -> Tensor:
        own = states.flatten(0, 1)
        size = len(own) * self._items
        if len(self._buffer) < size:
            self._buffer = own.new_empty(size)
        return torch.addmm(self._tower.bias, own, self._tower.target.T, out=self._buffer[:size].view(len(own), -1))

    def _differentiated(self, states: Tensor, of_scores: Tensor) -> tuple[Tensor, Tensor, Parameters]:
        of_target, of_bias = torch.bmm(of_scores.mT, states), of_scores.sum(1)
        self._kept.append((of_target, of_bias))
        squares = self._tower.squares_of_products(of_scores, states, of_target, of_bias)
        return of_scores @ self._tower.target, squares, {}

    def add(self, factors: Tensor) -> None:
        for (of_target, of_bias), share in zip(
            self._kept, factors.split([len(one) for _, one in self._kept]), strict=True
        ):
            self._tower.add(of_target, of_bias, share)

    def total(self) -> Parameters:
        return self._tower.total()


class TargetTower:
    """The target side of the tables, gradients pulled back through it, and clipped sums at the tables.

    Args:
        training: the model and its parameters.
        present: [items, modality_columns] what the towers may read.
        side: the model's method that gives a table [items, width] and biases [items]; None: ``target_side``.
    """

    def __init__(self, training: RowTraining, present: Tensor, side: Side | None = None) -> None:
        known = {modality: one for (side, modality), one in training.known.items() if side == "target"}
        leaves = {name: value.clone().requires_grad_() for name, value in (training.shared | training.rows).items()}
        products = {modality: one.product.clone().requires_grad_() for modality, one in known.items()}
        values: dict[str, Values] = dict(training.frozen)
        values |= {modality: KnownProduct(product) for modality, product in products.items()}
        self._residual = training.model.residual_tables() if side is None else None
        if self._residual is None:
            target, bias = training.stages.run(
                leaves, "of the model", side or training.model.target_side, values, present
            )
            outputs = (target, bias)
        else:
            weights = training.shared[self._residual.parameter][self._residual.side]
            self._last = weights * self._residual.scale
            target, hidden, bias = training.stages.run(leaves, "of the model", self._residual.parts, values, present)
            outputs, self._hidden = (target, bias, hidden), hidden.detach()
            target = target + self._hidden @ self._last
        self._whole = [one.requires_grad for one in outputs]
        self._outputs = [one for one in outputs if one.requires_grad]
        self.target, self.bias = target.detach(), bias.detach()
        self._of_target = torch.zeros_like(self.target, dtype=torch.float64)
        self._of_bias = torch.zeros_like(self.bias, dtype=torch.float64)
        traced: list[tuple[str, Tensor, KnownProjection | None]] = [(name, leaf, None) for name, leaf in leaves.items()]
        traced += [(one.name, products[modality], one) for modality, one in known.items()]
        read = torch.autograd.grad(
            sum((one.sum() for one in self._outputs), torch.zeros(())),
            [leaf for _, leaf, _ in traced],
            retain_graph=True,
            allow_unused=True,
        )
        self._turned: dict[tuple[str, ...], Tensor] = {}
        self._traced = [one for one, gradient in zip(traced, read, strict=True) if gradient is not None]

    def pulled(self, of_target: Tensor, of_bias: Tensor) -> Parameters:
        """Gradients by parameter name, from those of the table [items, width] and the biases [items]."""
        if self._residual is None:
            return self._pulled(of_target, of_bias)
        found = self._pulled(of_target, of_bias, of_target @ self._last.T)
        of_last = self._of_parameter(self._residual, self._hidden.T @ of_target)
        return found | {self._residual.parameter: of_last}

    def squares_of_products(self, left: Tensor, right: Tensor, of_target: Tensor, of_bias: Tensor) -> Tensor:
        """[users] ``squares``, where gradients of the table [users, items, width] are leftᵀ right.

        Args:
            left: [users, n, items].
            right: [users, n, width].
            of_target: their product.
            of_bias: [users, items].
        """
        if self._residual is None:
            return torch.stack([self.squares(*one) for one in zip(of_target, of_bias, strict=True)])
        through = torch.bmm(left.mT, right @ self._last.T)
        of_last = torch.bmm((left @ self._hidden).mT, right) * self._residual.scale
        each = zip(of_target, of_bias, through, strict=True)
        return squared_norms(of_last) + torch.stack([_square(self._pulled(*one)) for one in each])

    @staticmethod
    def _of_parameter(residual: ResidualTables, gradient: Tensor) -> Tensor:
        """The gradient of the whole parameter from that of the weights."""
        other = torch.zeros_like(gradient)
        return torch.stack([gradient * residual.scale if at == residual.side else other for at in range(2)])

    def _pulled(self, *of_outputs: Tensor) -> Parameters:
        given = [one for one, whole in zip(of_outputs, self._whole, strict=True) if whole]
        leaves = [leaf for _, leaf, _ in self._traced]
        found = torch.autograd.grad(self._outputs, leaves, given, retain_graph=True)
        named: Parameters = {}
        joined: dict[object, list[tuple[str, KnownProjection, Tensor]]] = {}  # whose products have the same gradient
        for (name, _, projection), gradient in zip(self._traced, found, strict=True):
            if projection is None:
                named[name] = gradient
            else:
                joined.setdefault((gradient.data_ptr(), gradient.shape, gradient.stride()), []).append(
                    (name, projection, gradient)
                )
        for several in joined.values():
            product = self._values(tuple(name for name, *_ in several), [one for _, one, _ in several]) @ several[0][2]
            parts = product.split([one.values.shape[1] for _, one, _ in several])
            named |= {name: part for (name, *_), part in zip(several, parts, strict=True)}
        return named

    def _values(self, names: tuple[str, ...], projections: Sequence[KnownProjection]) -> Tensor:
        """[width, items] features of some projections below one another, times their scales."""
        if names not in self._turned:
            self._turned[names] = torch.cat([one.values * one.scale for one in projections], dim=1).T.contiguous()
        return self._turned[names]

    def squares(self, of_target: Tensor, of_bias: Tensor) -> Tensor:
        """Float64 squared norm of ``pulled``."""
        return _square(self.pulled(of_target, of_bias))

    def add(self, of_target: Tensor, of_bias: Tensor, factors: Tensor) -> None:
        """Add the users' gradients [users, items, width] and [users, items], each times its factor [users]."""
        self._of_target += (factors[None] @ of_target.flatten(1)).view_as(self._of_target)
        self._of_bias += factors @ of_bias

    def total(self) -> Parameters:
        """``pulled`` of what was added."""
        return self.pulled(self._of_target.to(self.target.dtype), self._of_bias.to(self.bias.dtype))


def _square(gradients: Parameters) -> Tensor:
    return torch.stack([torch.dot(one.flatten(), one.flatten()).double() for one in gradients.values()]).sum()
