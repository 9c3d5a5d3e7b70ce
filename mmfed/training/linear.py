"""One clipped step of linear towers under the full softmax: norms from Gram matrices, no gradient per user.

With scores Q Vᵀ + b and δ the derivative by the scores, a user's gradient of the target table is δᵀQ, and that of a
parameter θ with V = Aθ is (δA)ᵀQ, whose squared norm is the sum of (δA)(δA)ᵀ ∘ QQᵀ: small matrices, positions by
positions (ghost norms: Li, Tramèr, Liang, Hashimoto 2022, "Large Language Models Can Be Strong Differentially Private
Learners", section 4). With all norms known, the clipped sum of all users is one product of large matrices, pulled back
through the towers once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from mmfed.models.base import HistoryBatch, ItemTables, LinearTables, Recommender
from mmfed.training.batch import TrainingBatch
from mmfed.training.rows import bounded, distinct

Parameters = dict[str, Tensor]


class LinearSums:
    """Clipped sums of user gradients, chunk by chunk.

    Args:
        model: with the round's parameters.
        tables: of the model.
        linear: what makes them linear.
        bound: on the norm of a user's gradient.
        guard: added to the norm before the bound is divided by it.
    """

    def __init__(
        self, model: Recommender, tables: ItemTables, linear: LinearTables, *, bound: float, guard: float
    ) -> None:
        self._stages = _States(model)
        self._tables = tables
        self._linear = linear
        self._bound, self._guard = bound, guard
        parameters = {name: value.detach() for name, value in model.shared_parameters().items()}
        self._head = self._read(parameters)
        self.table_totals = [torch.zeros_like(table, dtype=torch.float64) for table in tables]
        self.head_totals = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in self._head.items()}

    def add(self, batch: TrainingBatch) -> Tensor:
        """Add the users of a batch; returns the gradients of their private vectors [users, p], not clipped."""
        items, (users, states) = batch.histories.items, batch.targets.shape
        with torch.enable_grad():  # every user has a copy of what forms the states: gradients stay apart
            head = {name: value.expand(users, *value.shape).requires_grad_() for name, value in self._head.items()}
            vectors = functional.embedding(items, self._tables.history).requires_grad_()
            own = batch.histories.user_vectors.clone().requires_grad_()
            formed = self._stages.run(head, vectors, batch.histories._replace(user_vectors=own))
        queries = formed.detach()
        scores = torch.addmm(self._tables.bias, queries.flatten(0, 1), self._tables.target.T).view(users, states, -1)
        delta = _softmax_derivative(scores, batch)
        found = torch.autograd.grad(
            formed, [*head.values(), vectors, own], delta @ self._tables.target, allow_unused=True
        )
        *of_parameters, of_vectors, of_own = found
        # Where nobody was asked about the own person, no state reads the rows of the answers.
        of_head = {name: value for name, value in zip(head, of_parameters, strict=True) if value is not None}

        squares = self._target_squares(delta, queries) + self._history_squares(items, of_vectors)
        for value in of_head.values():
            squares += value.flatten(1).square().sum(1, dtype=torch.float64)
        factors = bounded(squares, self._bound, self._guard).to(delta.dtype)

        weighted = torch.cat([queries, torch.ones_like(queries[..., :1])], dim=2) * factors[:, None, None]
        of_table = delta.flatten(0, 1).T @ weighted.flatten(0, 1)
        self.table_totals[1] += of_table[:, :-1]
        self.table_totals[2] += of_table[:, -1]
        scaled = (of_vectors * factors[:, None, None]).flatten(0, 1)
        self.table_totals[0].index_add_(0, items.flatten(), scaled.double())
        for name, value in of_head.items():
            self.head_totals[name] += torch.tensordot(factors, value, dims=1)
        return torch.zeros_like(own) if of_own is None else of_own

    def _target_squares(self, delta: Tensor, queries: Tensor) -> Tensor:
        """[users] float64 squared norms of the gradients of the target side's parameters and of the item bias."""
        side = self._linear.target
        gram = delta.new_zeros(len(delta), delta.shape[1], delta.shape[1])
        if bool(side.own.any()):
            own = delta
            if side.pull is not None:
                own = side.pull(delta.flatten(0, 1).T).T.view_as(delta)
            if not bool((side.own == 1).all()):
                own = own * side.own
            gram = torch.bmm(own, own.mT)
        if side.columns.shape[1]:
            read = delta @ side.columns
            gram = torch.baddbmm(gram, read, read.mT)
        squares = (gram.double() * torch.bmm(queries, queries.mT)).sum((1, 2))
        return squares + self._linear.bias**2 * delta.sum(1).square().sum(1, dtype=torch.float64)

    def _history_squares(self, items: Tensor, gradients: Tensor) -> Tensor:
        """[users] float64 squared norms of the gradients of the history side's parameters."""
        side = self._linear.history
        read = functional.embedding(items, side.columns)
        squares = torch.bmm(read.mT, gradients).flatten(1).square().sum(1, dtype=torch.float64)
        if side.pull is not None and bool(side.own.any()):
            users, _, width = gradients.shape
            rows = gradients.new_zeros(users, len(side.own), width)
            rows.scatter_add_(1, items[:, :, None].expand_as(gradients), gradients)
            pulled = side.pull(rows.transpose(0, 1).flatten(1)).view(-1, users, width) * side.own[:, None, None]
            squares = squares + pulled.square().sum((0, 2), dtype=torch.float64)
        elif bool(side.own.any()):
            found, places = distinct(items.numpy(), len(side.own))
            rows = gradients.new_zeros(found.size, gradients.shape[2])
            flat = torch.from_numpy(places + np.arange(len(places))[:, None] * found.shape[1])
            rows.index_add_(0, flat.flatten(), gradients.flatten(0, 1))
            own = side.own[torch.from_numpy(found)]
            norms = rows.square().sum(1).view(found.shape) * own.square()
            # The last item is repeated as padding, whose rows stay zero.
            squares = squares + norms.sum(1, dtype=torch.float64)
        return squares

    def _read(self, parameters: Mapping[str, Tensor]) -> Parameters:
        """The parameters that form states from history vectors."""
        leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
        zero = torch.zeros(1, 1, dtype=torch.int64)
        known = self._tables.history.new_ones(1, 1)
        own = known.new_zeros(1, self._stages.model.private_dimensions)
        one = HistoryBatch(zero, known, known, zero + 1, known * 0, own, known, person=zero - 1)
        with torch.enable_grad():
            total = self._stages.run(leaves, functional.embedding(zero, self._tables.history), one).sum()
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        return {name: value for (name, value), one in zip(parameters.items(), found, strict=True) if one is not None}


def _softmax_derivative(scores: Tensor, batch: TrainingBatch) -> Tensor:
    """[users, states, items] derivative of the users' losses by ``scores``, which are overwritten."""
    targets, of_targets = batch.targets[:, :, None], scores.gather(2, batch.targets[:, :, None])
    _hide_seen(scores, batch.histories)
    scores.scatter_(2, targets, of_targets)  # the target itself may have been seen
    delta = torch.softmax(scores, dim=2)
    delta.scatter_add_(2, targets, torch.full_like(of_targets, -1.0))
    return delta.mul_(batch.weights[:, :, None])


def _hide_seen(scores: Tensor, histories: HistoryBatch) -> None:
    """Sets the scores of what the user had before each position to −∞: few cells, found from the events."""
    _, states, items = scores.shape
    before = torch.arange(histories.items.shape[1]) < histories.positions[:, :, None]
    hidden = (before | (histories.others[:, :, None] > 0)) & (histories.known[:, None, :] > 0)
    user, state, event = hidden.nonzero(as_tuple=True)
    scores.view(-1).index_fill_(0, (user * states + state) * items + histories.items[user, event], float("-inf"))


class _States(torch.nn.Module):
    def __init__(self, model: Recommender) -> None:
        super().__init__()
        self.model = model

    def run(self, parameters: Mapping[str, Tensor], vectors: Tensor, batch: HistoryBatch) -> Tensor:
        return functional_call(self, {f"model.{name}": value for name, value in parameters.items()}, (vectors, batch))

    def forward(self, vectors: Tensor, batch: HistoryBatch) -> Tensor:
        return self.model.user_states(vectors, batch)


def parameter_totals(
    tables: ItemTables, table_totals: Iterable[Tensor], shared: Mapping[str, Tensor], head_totals: Mapping[str, Tensor]
) -> Parameters:
    """Float64 gradients by parameter name: sums by table pulled back through the towers, head sums added."""
    trained = [(table, total.to(table.dtype)) for table, total in zip(tables, table_totals, strict=True)]
    trained = [one for one in trained if one[0].requires_grad]
    pulled = torch.autograd.grad(
        [table for table, _ in trained], list(shared.values()), [total for _, total in trained], allow_unused=True
    )
    summed = {}
    for (name, value), gradient in zip(shared.items(), pulled, strict=True):
        total = torch.zeros_like(value, dtype=torch.float64) if gradient is None else gradient.double()
        summed[name] = total + head_totals[name] if name in head_totals else total
    return summed
