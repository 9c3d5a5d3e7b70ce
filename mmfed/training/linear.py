"""One clipped step of linear towers under the full softmax: norms from Gram matrices, no gradient per user.

With scores Q Vᵀ + b and δ the derivative by the scores, a user's gradient of the target table is δᵀQ, and that of a
parameter θ with V = Aθ is (δA)ᵀQ, whose squared norm is the sum of (δA)(δA)ᵀ ∘ QQᵀ: small matrices, positions by
positions (ghost norms: Li, Tramèr, Liang, Hashimoto 2022, "Large Language Models Can Be Strong Differentially Private
Learners", section 4). The matrix that mixes the pooled histories into states is such a parameter as well. With all
norms known, the clipped sum of all users is one product of large matrices, pulled back through the towers once.

Scores take most of the time: they lie in one buffer from the product to the derivative, whose weight (one over the
positions of a user) is left to the small matrices beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmfed.models.base import ItemTables, LinearSide, LinearTables, answers_said
from mmfed.training.batch import TrainingBatch
from mmfed.training.rows import bounded, distinct
from mmfed.training.softmax import SoftmaxDerivatives

Parameters = dict[str, Tensor]


class LinearSums:
    """Clipped sums of user gradients, chunk by chunk.

    Args:
        parameters: the round's, by name.
        tables: of the model.
        linear: what makes them linear.
        bound: on the norm of a user's gradient.
        guard: added to the norm before the bound is divided by it.
    """

    def __init__(
        self, parameters: Parameters, tables: ItemTables, linear: LinearTables, *, bound: float, guard: float
    ) -> None:
        self._tables, self._linear = tables, linear
        self._history, self._target = _without_empty(linear.history), _without_empty(linear.target)
        self._bound, self._guard = bound, guard
        self.within = 0  # users so far whose gradient was within the bound
        self._mix = parameters[linear.mix].flatten(0, 1)
        self._answers = None if linear.answers is None else parameters[linear.answers]
        self._delta = self._scores = tables.target.new_empty(0)
        self.table_totals = [torch.zeros_like(table, dtype=torch.float64) for table in tables]
        heads = [name for name in (linear.mix, linear.answers) if name is not None]
        self.head_totals = {name: torch.zeros_like(parameters[name], dtype=torch.float64) for name in heads}

    def add(self, batch: TrainingBatch) -> Tensor:
        """Add the users of a batch; returns the gradients of their private vectors [users, p], not clipped."""
        histories, (users, states), linear = batch.histories, batch.targets.shape, self._linear
        kept, tables = histories.kept[:, :, None], self._tables
        weights, divisor = linear.pool(histories, tables.history.dtype)
        vectors = functional.embedding(histories.items, tables.history)
        pooled = torch.bmm(weights, vectors * kept).div_(divisor).view(users, states, -1)
        queries = (pooled.flatten(0, 1) @ self._mix).view(users, states, -1)
        if linear.private:
            queries += histories.user_vectors[:, None]
        said = None
        if self._answers is not None and not isinstance(histories.person, tuple):
            said = answers_said(histories.person, len(self._answers)).to(queries.dtype)
            queries += (said @ self._answers)[:, None]

        delta, of_queries, gram = self._derivatives(queries, batch)
        of_queries *= batch.weights[:, :, None]
        of_pooled = (of_queries.flatten(0, 1) @ self._mix.T).view(*divisor.shape[:2], -1) / divisor
        of_vectors = torch.bmm(weights.mT, of_pooled).mul_(kept)
        of_all = of_queries.sum(1)

        by_state = torch.bmm(of_queries, of_queries.mT).double()
        squares = self._target_squares(delta, gram, batch.weights, queries)
        squares += self._history_squares(histories.items, of_vectors)
        squares += (torch.bmm(pooled, pooled.mT) * by_state).sum((1, 2))
        if said is not None:
            squares += said.sum(1) * by_state.sum((1, 2))
        exact = bounded(squares, self._bound, self._guard)
        self.within += int((exact >= 1).sum())
        factors = exact.to(delta.dtype)

        share = batch.weights * factors[:, None]
        self.table_totals[1] += delta.flatten(0, 1).T @ (queries * share[:, :, None]).flatten(0, 1)
        self.table_totals[2] += delta.flatten(0, 1).T @ share.flatten()
        scaled = (of_vectors * factors[:, None, None]).flatten(0, 1)
        self.table_totals[0].index_add_(0, histories.items.flatten(), scaled.double())
        mixed = pooled.flatten(0, 1).T @ (of_queries * factors[:, None, None]).flatten(0, 1)
        self.head_totals[linear.mix] += mixed.view_as(self.head_totals[linear.mix])
        if said is not None and linear.answers is not None:
            self.head_totals[linear.answers] += said.T @ (of_all * factors[:, None])
        return of_all if linear.private else torch.zeros_like(histories.user_vectors)

    def _derivatives(self, queries: Tensor, batch: TrainingBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Of the users' losses over ``batch.weights``, block by block, so that scores stay near the processor.

        Returns:
            [users, states, items] derivative δ by the scores, [users, states, d] by the queries, and δδᵀ.
        """
        users, states, items = *queries.shape[:2], len(self._tables.bias)
        derivatives = SoftmaxDerivatives(batch, items)
        blocks = list(derivatives.blocks(states * items * queries.element_size()))
        if len(self._delta) < users * states * items:
            self._delta = queries.new_empty(users * states * items)
        most = blocks[0].stop * states
        if self._scores.dim() != 2 or len(self._scores) < most:
            self._scores = queries.new_empty(most, items)
        delta = self._delta[: users * states * items].view(users, states, items)
        of_queries, gram = torch.empty_like(queries), queries.new_empty(users, states, states)
        for chosen in blocks:
            there = delta[chosen]
            rows, scores = there.flatten(0, 1), self._scores[: len(there) * states]
            torch.addmm(self._tables.bias, queries[chosen].flatten(0, 1), self._tables.target.T, out=scores)
            derivatives(scores, chosen, rows)
            torch.mm(rows, self._tables.target, out=of_queries[chosen].flatten(0, 1))
            torch.bmm(there, there.mT, out=gram[chosen])
        return delta, of_queries, gram

    def _target_squares(self, delta: Tensor, plain: Tensor, weights: Tensor, queries: Tensor) -> Tensor:
        """[users] float64 squared norms of the gradients of the target side's parameters and of the item bias."""
        side = self._target
        gram = torch.zeros_like(plain)
        if side.pull is not None or len(side.own.unique()) > 1:
            own = delta if side.pull is None else side.pull(delta.flatten(0, 1).T).T.reshape(delta.shape)
            own = own * side.own
            gram = torch.bmm(own, own.mT)
        elif bool(side.own.any()):
            gram = plain * side.own[0] ** 2
        if side.columns.shape[1]:
            read = delta @ side.columns
            gram = gram + torch.bmm(read, read.mT)
        both = weights.double()[:, :, None] * weights.double()[:, None, :]
        by_state = torch.bmm(queries, queries.mT) * gram.double() + plain.double() * self._linear.bias**2
        return (by_state * both).sum((1, 2))

    def _history_squares(self, items: Tensor, gradients: Tensor) -> Tensor:
        """[users] float64 squared norms of the gradients of the history side's parameters."""
        side, squares = self._history, torch.zeros(len(items), dtype=torch.float64)
        if side.columns.shape[1]:
            read = functional.embedding(items, side.columns)
            squares += torch.bmm(read.mT, gradients).flatten(1).square().sum(1, dtype=torch.float64)
        if side.pull is not None and bool(side.own.any()):
            users, _, width = gradients.shape
            rows = gradients.new_zeros(users, len(side.own), width)
            rows.scatter_add_(1, items[:, :, None].expand_as(gradients), gradients)
            pulled = side.pull(rows.transpose(0, 1).flatten(1)).view(-1, users, width) * side.own[:, None, None]
            squares += pulled.square().sum((0, 2), dtype=torch.float64)
        elif bool(side.own.any()):
            found, places = distinct(items.numpy(), len(side.own))
            rows = gradients.new_zeros(found.size, gradients.shape[2])
            flat = torch.from_numpy(places + np.arange(len(places))[:, None] * found.shape[1])
            rows.index_add_(0, flat.flatten(), gradients.flatten(0, 1))
            own = side.own[torch.from_numpy(found)]
            norms = rows.square().sum(1).view(found.shape) * own.square()
            # The last item is repeated as padding, whose rows stay zero.
            squares += norms.sum(1, dtype=torch.float64)
        return squares


def _without_empty(side: LinearSide) -> LinearSide:
    """The side without columns of zeros, whose parameters nothing reads."""
    return side._replace(columns=side.columns[:, (side.columns != 0).any(0)])


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
