"""Per-user local training that touches only the rows of the item tables that a user's loss reads.

A user's loss reads the history rows of the own events, and the target rows of the targets and sampled negatives (with
the full softmax: of every item). Rows are computed from the items' inputs gathered per user, and a parameter with one
row per item (ids, biases) is copied for the touched rows alone, so the cost of a user does not grow with the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional
from torch.utils._pytree import tree_map

from mmfed.config import TrainingSection
from mmfed.models.base import ItemTables, Recommender
from mmfed.training.batch import TrainingBatch
from mmfed.training.objective import user_losses
from mmfed.types import IntArray

Parameters = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Places:
    """Where a step's items lie among the touched rows.

    Attributes:
        events: [users, events] row of every event.
        targets: [users, candidates] row of every item that the step scores; None: all rows.
        batch: the step's batch, its targets and negatives renumbered within ``targets``.
    """

    events: Tensor
    targets: Tensor | None
    batch: TrainingBatch


@dataclass(frozen=True, eq=False)
class TouchedRows:
    """The items that some users' batches read.

    Attributes:
        items: [users, rows] the item of every row, distinct per user and padded with a repetition that nothing reads;
            None: every item is a row of every user.
        steps: one entry per local step.
    """

    items: Tensor | None
    steps: tuple[Places, ...]


def touched_rows(batches: Sequence[TrainingBatch], item_count: int) -> TouchedRows:
    """The rows of all local steps together. With the full softmax all items are rows."""
    if batches[0].first_seen.shape[1]:
        return TouchedRows(None, tuple(Places(batch.histories.items, None, batch) for batch in batches))
    events = batches[0].histories.items.numpy()
    read = [torch.cat([batch.targets[:, :, None], batch.negatives], dim=2).numpy() for batch in batches]
    candidates = [distinct(one.reshape(len(one), -1), item_count) for one in read]
    items, _ = distinct(np.concatenate([events, *(found for found, _ in candidates)], axis=1), item_count)
    steps = []
    for batch, (found, local) in zip(batches, candidates, strict=True):
        renumbered = torch.from_numpy(local.reshape(*batch.targets.shape, -1))
        own = batch._replace(targets=renumbered[:, :, 0].contiguous(), negatives=renumbered[:, :, 1:].contiguous())
        steps.append(Places(_places(items, events, item_count), _places(items, found, item_count), own))
    return TouchedRows(torch.from_numpy(items), tuple(steps))


def distinct(items: IntArray, item_count: int) -> tuple[IntArray, IntArray]:
    """Distinct items per row, ascending, padded by repeating the last; and the place of every entry among them."""
    rows = np.arange(len(items))[:, None]
    cells, inverse = np.unique(rows * item_count + items, return_inverse=True)
    counts = np.bincount(cells // item_count, minlength=len(items))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    within = np.minimum(np.arange(int(counts.max(initial=1))), counts[:, None] - 1)
    return cells[starts[:, None] + within] % item_count, inverse.reshape(items.shape) - starts[:, None]


def _places(items: IntArray, wanted: IntArray, item_count: int) -> Tensor:
    """[users, n] the place of ``wanted`` among ``items`` [users, rows], which are ascending."""
    rows = np.arange(len(items))[:, None] * item_count
    found = np.searchsorted((rows + items).ravel(), (rows + wanted).ravel()).reshape(wanted.shape)
    return torch.from_numpy(found - np.arange(len(items))[:, None] * items.shape[1])


class _Stages(torch.nn.Module):
    """The stages of a model as one module, so that ``functional_call`` can substitute parameters in each."""

    def __init__(self, model: Recommender, training: TrainingSection) -> None:
        super().__init__()
        self.model = model
        self.training_section = training

    def run(self, parameters: Mapping[str, Tensor], stage: str, *arguments: Any) -> Any:
        prefixed = {f"model.{name}": value for name, value in parameters.items()}
        return functional_call(self, prefixed, (stage, *arguments))

    def forward(self, stage: str, *arguments: Any) -> Any:
        if stage == "history":
            return self.model.history_side(*arguments)
        if stage == "target":
            return self.model.target_side(*arguments)
        return user_losses(self.model, self.training_section, *arguments)


class RowGradients:
    """Gradients of each user's loss with respect to the parameters, row parameters by touched row.

    Args:
        model: ``rowwise``.
        training: the objective.
    """

    def __init__(self, model: Recommender, training: TrainingSection) -> None:
        self._model = model
        self._stages = _Stages(model, training)
        rows = model.row_parameters()
        self.row_names = rows
        self._of_history, self._of_target = (self._read(stage, rows) for stage in ("history", "target"))

    def __call__(
        self, shared: Parameters, rows: Parameters, own: Tensor, places: Places, items: Tensor | None, present: Tensor
    ) -> tuple[Parameters, Parameters, Tensor]:
        """Gradients of one step.

        Args:
            shared: parameters without rows, [users, *shape] each, or [*shape] while all users agree.
            rows: row parameters, [users, rows, *shape]; or [items, *shape] while all users agree.
            own: [users, p] private vectors.
            places: of the step.
            items: as ``TouchedRows.items``.
            present: [items, modality_columns] of the step.

        Returns:
            By name [users, *shape], by name [users, rows, *shape], and [users, p].
        """
        agree = all(value.dim() == parameter.dim() for value, parameter in self._compared(shared, rows))
        events = places.events if items is None else items.gather(1, places.events)
        of_history = {name: self._gathered(rows[name], places.events, events, agree) for name in self._of_history}
        if places.targets is None or items is None:  # the full softmax scores all items, and all are rows
            of_target = {name: rows[name] for name in self._of_target}
            targets = None
        else:
            targets = items.gather(1, places.targets)
            of_target = {name: self._gathered(rows[name], places.targets, targets, agree) for name in self._of_target}

        def loss(
            shared: Parameters,
            of_history: Parameters,
            of_target: Parameters,
            own: Tensor,
            one: TrainingBatch,
            history_inputs: Any,
            target_inputs: Any,
        ) -> Tensor:
            alone: TrainingBatch = tree_map(lambda tensor: tensor[None], one)
            alone = alone._replace(histories=alone.histories._replace(user_vectors=own[None]))
            history = self._stages.run(shared | of_history, "history", *history_inputs)
            target, bias = self._stages.run(shared | of_target, "target", *target_inputs)
            tables = ItemTables(history, target, bias)
            return self._stages.run(shared, "losses", tables, history[None], alone)[0]

        of_shared = None if agree else 0
        dense = None if agree and places.targets is None else 0
        dimensions = (of_shared, 0, dense, 0, 0, 0, None if targets is None else 0)
        found = vmap(grad(loss, argnums=(0, 1, 2, 3)), in_dims=dimensions)(
            shared,
            of_history,
            of_target,
            own,
            places.batch,
            self._inputs(events, present),
            self._inputs(targets, present),
        )
        return found[0], self._scattered(rows, found[1], found[2], places, items, agree), found[3]

    def _compared(self, shared: Parameters, rows: Parameters) -> list[tuple[Tensor, Tensor]]:
        parameters = self._model.shared_parameters()
        return [(value, parameters[name]) for name, value in (shared | rows).items()]

    def _inputs(self, items: Tensor | None, present: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """What the towers read of ``items`` [users, n], or of all."""
        frozen = self._model.features.frozen
        if items is None:
            return frozen, present
        return {name: functional.embedding(items, value) for name, value in frozen.items()}, functional.embedding(
            items, present
        )

    @staticmethod
    def _gathered(rows: Tensor, places: Tensor, items: Tensor, agree: bool) -> Tensor:
        """[users, n, *shape] rows at ``places``; while all users agree, of the whole table at ``items``."""
        if agree:
            return rows.index_select(0, items.flatten()).view(*items.shape, *rows.shape[1:])
        flat = (places + torch.arange(len(places))[:, None] * rows.shape[1]).flatten()
        return rows.flatten(0, 1).index_select(0, flat).view(*places.shape, *rows.shape[2:])

    def _scattered(
        self,
        rows: Parameters,
        of_history: Parameters,
        of_target: Parameters,
        places: Places,
        items: Tensor | None,
        agree: bool,
    ) -> Parameters:
        """Gradients of gathered rows, summed by row."""
        count = len(places.events)
        height = self._model.item_count if items is None else items.shape[1]
        summed = {}
        for name in self.row_names:
            shape = rows[name].shape[1 if agree else 2 :]
            if name in of_target and places.targets is None:
                total = of_target[name].contiguous()
            else:
                total = rows[name].new_zeros(count, height, *shape)
            parts = [(places.events, of_history.get(name))]
            parts += [(places.targets, of_target.get(name))] if places.targets is not None else []
            for where, gradient in parts:
                if gradient is not None:
                    flat = (where + torch.arange(count)[:, None] * height).flatten()
                    total.view(count * height, *shape).index_add_(0, flat, gradient.flatten(0, 1))
            summed[name] = total
        return summed

    def _read(self, stage: str, rows: tuple[str, ...]) -> tuple[str, ...]:
        """The row parameters that a stage reads."""
        leaves = {
            name: (value[:1] if name in rows else value).detach().requires_grad_()
            for name, value in self._model.shared_parameters().items()
        }
        inputs = self._inputs(torch.zeros(1, dtype=torch.int64), self._model.present(None))
        out = self._stages.run(leaves, stage, *inputs)
        total = sum((value.sum() for value in (out if isinstance(out, tuple) else (out,))), torch.zeros(()))
        if not rows or not total.requires_grad:
            return ()
        found = torch.autograd.grad(total, [leaves[name] for name in rows], allow_unused=True)
        return tuple(name for name, gradient in zip(rows, found, strict=True) if gradient is not None)
