"""Per-user gradients through whole item tables: for models whose items depend on each other or on trained encoders."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vjp, vmap
from torch.nn import functional
from torch.utils._pytree import tree_map

from mmfed.config import TrainingSection
from mmfed.models.base import ItemTables, Recommender
from mmfed.training.batch import TrainingBatch
from mmfed.training.local_optimiser import LocalOptimiser
from mmfed.training.objective import user_losses

Parameters = dict[str, Tensor]


class _Program(torch.nn.Module):
    """The model's two stages as one module, so that ``functional_call`` can substitute parameters in either."""

    def __init__(self, model: Recommender, training: TrainingSection) -> None:
        super().__init__()
        self.model = model
        self.training_section = training

    def tables(self, parameters: Parameters, mask: Tensor | None) -> ItemTables:
        return functional_call(self, self._prefixed(parameters), ("tables", mask))

    def losses(self, parameters: Parameters, tables: ItemTables, vectors: Tensor, batch: TrainingBatch) -> Tensor:
        return functional_call(self, self._prefixed(parameters), ("losses", tables, vectors, batch))

    def forward(self, stage: str, *arguments: Any) -> Any:
        if stage == "tables":
            return self.model.item_tables(*arguments)
        return user_losses(self.model, self.training_section, *arguments)

    def _prefixed(self, parameters: Parameters) -> Parameters:
        return {f"model.{name}": value for name, value in parameters.items()}


class SequenceGradients:
    """Gradients of each sequence's loss with respect to the shared parameters.

    The forward pass of the item towers is shared; what differs between users is differentiated per user.

    Args:
        model: the recommender.
        parameters: values of the shared parameters by name.
        training: the objective.
        mask: of the item towers (modality dropout).
    """

    def __init__(
        self, model: Recommender, parameters: Parameters, training: TrainingSection, mask: Tensor | None = None
    ) -> None:
        self._program = _Program(model, training)
        self._parameters = parameters
        pulled: tuple[Any, ...] = vjp(lambda values: self._program.tables(values, mask), parameters)
        self._tables: ItemTables = pulled[0]
        self._pull_back = pulled[1]
        self._head_names: tuple[str, ...] | None = None

    def __call__(self, batch: TrainingBatch) -> tuple[Parameters, Tensor]:
        """Gradients by parameter name, each [sequences, *shape], and of the private vectors [sequences, p]."""
        tables, items = self._tables, batch.histories.items
        count, item_count = items.shape[0], tables.history.shape[0]
        head = {name: self._parameters[name] for name in self._head(batch)}

        def loss(
            head: Parameters, target: Tensor, bias: Tensor, vectors: Tensor, own: Tensor, one: TrainingBatch
        ) -> Tensor:
            alone: TrainingBatch = tree_map(lambda tensor: tensor[None], one)
            alone = alone._replace(histories=alone.histories._replace(user_vectors=own[None]))
            tables = ItemTables(self._tables.history, target, bias)
            return self._program.losses(self._parameters | head, tables, vectors[None], alone)[0]

        gathered = functional.embedding(items, tables.history)
        per_user = vmap(grad(loss, argnums=(0, 1, 2, 3, 4)), in_dims=(None, None, None, 0, 0, 0))
        of_head, of_target, of_bias, of_vectors, of_own = per_user(
            head, tables.target, tables.bias, gathered, batch.histories.user_vectors, batch
        )
        of_history = gathered.new_zeros(count * item_count, gathered.shape[2])
        rows = (items + torch.arange(count)[:, None] * item_count).flatten()
        of_history.index_add_(0, rows, of_vectors.flatten(0, 1))
        (shared,) = vmap(self._pull_back)(ItemTables(of_history.view(count, item_count, -1), of_target, of_bias))
        for name, value in of_head.items():
            shared[name] = shared[name] + value
        return shared, of_own

    def _head(self, batch: TrainingBatch) -> tuple[str, ...]:
        """Names of the parameters that the loss reads besides the tables (found once)."""
        if self._head_names is None:
            leaves = {name: value.detach().requires_grad_() for name, value in self._parameters.items()}
            one: TrainingBatch = tree_map(lambda tensor: tensor[:1], batch)
            vectors = functional.embedding(one.histories.items, self._tables.history)
            loss = self._program.losses(leaves, self._tables, vectors, one).sum()
            names = list(leaves) if loss.requires_grad else []
            found = torch.autograd.grad(loss, [leaves[name] for name in names], allow_unused=True) if names else ()
            self._head_names = tuple(name for name, value in zip(names, found, strict=True) if value is not None)
        return self._head_names


def several_steps(
    model: Recommender,
    parameters: Parameters,
    own: Tensor,
    training: TrainingSection,
    steps: Iterable[tuple[TrainingBatch, Tensor | None, Tensor]],
) -> tuple[Parameters, Tensor]:
    """Each user's change [users, *shape] after all local steps, and the new private vectors.

    Args:
        own: [users, p] private vectors.
        steps: of every step the batch, the mask of the towers, and [users] whether a user still takes part.
    """
    program = _Program(model, training)
    current = {name: value.expand(len(own), *value.shape) for name, value in parameters.items()}
    change: Parameters = {}

    def loss(parameters: Parameters, own: Tensor, one: TrainingBatch, mask: Tensor | None) -> Tensor:
        alone: TrainingBatch = tree_map(lambda tensor: tensor[None], one)
        alone = alone._replace(histories=alone.histories._replace(user_vectors=own[None]))
        tables = program.tables(parameters, mask)
        return program.losses(parameters, tables, tables.history[alone.histories.items], alone)[0]

    optimiser = LocalOptimiser(training, parameters)
    for batch, mask, active in steps:
        gradients, of_own = vmap(grad(loss, argnums=(0, 1)), in_dims=(0, 0, 0, None))(current, own, batch, mask)
        moves, own_move = optimiser.step(gradients, of_own, active)
        own = own + own_move
        change = {name: change[name] + move if change else move for name, move in moves.items()}
        current = {name: value + change[name] for name, value in parameters.items()}
    return change, own
