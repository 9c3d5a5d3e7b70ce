"""Sampled objectives where every pair of state and candidate has a hidden layer of its own (``mmcnn``).

The layers of a user's candidates are the largest tensor there is: it is filled, bent and read where it lies, a few
users at a time. What passes back is summed by distinct item before it meets the first layer's weights.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmfed.models.base import HiddenTables
from mmfed.training.batch import TrainingBatch, objective_of
from mmfed.training.objective import candidate_losses
from mmfed.training.rows import Parameters, RowTraining
from mmfed.training.target_gradients import TargetGradients, TargetTower

BLOCK_BYTES = 4e6  # of hidden layers at a time


class OfHidden(TargetGradients):
    """Clipped sums for ``HiddenTables``.

    Args:
        training: the model and its parameters.
        tables: of the model.
        present: [items, modality_columns] what the towers may read.
    """

    def __init__(self, training: RowTraining, tables: HiddenTables, present: Tensor) -> None:
        self._section, self._objective = training.section, objective_of(training.model, training.section)
        self._tables, self._tower = tables, TargetTower(training, present, tables.inputs)
        self._item_in, self._user_in, self._out = (
            training.shared[name] for name in (tables.item_in, tables.user_in, tables.out)
        )
        self._hidden = torch.addmm(training.shared[tables.hidden_bias], self._tower.target, self._item_in)
        self._memory = self._hidden.new_empty(2, 0)
        self._kept: list[tuple[Tensor, Tensor]] = []

    @property
    def bytes_of_a_user(self) -> int:
        return max(self._tower.target.nbytes, 1)

    def of(self, states: Tensor, batch: TrainingBatch) -> tuple[Tensor, Tensor, Parameters]:
        candidates = torch.cat([batch.targets[:, :, None], batch.negatives], dim=2)
        leaf = states.detach().requires_grad_()
        standard = self._tables.standard(leaf)
        of_standard, squares, found = torch.empty_like(states), [], []
        self._kept = []
        size = int(max(BLOCK_BYTES // max(candidates[0].numel() * self._hidden.shape[1] * states.element_size(), 1), 1))
        for start in range(0, len(states), size):
            chosen = slice(start, start + size)
            read, part = candidates[chosen], standard.detach()[chosen]
            through = (part.flatten(0, 1) @ self._user_in).view(*part.shape[:2], -1)
            hidden, passed = self._buffers(read)
            torch.index_select(self._hidden, 0, read.flatten(), out=hidden.flatten(0, 2))
            hidden.add_(through[:, :, None]).relu_()
            scores = (hidden.flatten(0, 2) @ self._out).view(read.shape) + self._tower.bias[read]
            scores.requires_grad_()
            losses = candidate_losses(self._section, self._objective, scores, batch.usable[chosen])
            (of_scores,) = torch.autograd.grad((losses * batch.weights[chosen]).sum(), scores)
            pairs = zip(of_scores.flatten(1), hidden.flatten(1, 2), strict=True)
            of_out = torch.stack([of_score @ layer for of_score, layer in pairs])
            # What passes the non-linearity, before the last weights.
            given = of_scores[..., None].expand_as(hidden)
            torch.ops.aten.threshold_backward.grad_input(given, hidden, 0, grad_input=passed)
            of_user = passed.sum(2) * self._out
            of_standard[chosen] = of_user @ self._user_in.T
            of_item_in, of_hidden_bias, kept = self._by_item(read, of_scores, passed)
            self._kept.append(kept)
            squares += [self._tower.squares(*one) for one in zip(*kept, strict=True)]
            names = (self._tables.item_in, self._tables.hidden_bias, self._tables.out, self._tables.user_in)
            gradients = (of_item_in, of_hidden_bias, of_out, torch.bmm(part.mT, of_user))
            found.append(dict(zip(names, gradients, strict=True)))
        (of_states,) = torch.autograd.grad(standard, leaf, of_standard)
        return of_states, torch.stack(squares), {name: torch.cat([part[name] for part in found]) for name in found[0]}

    def _buffers(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Two tensors [*candidates, hidden] in the same memory every time: new pages cost more than the passes."""
        shape = (*candidates.shape, self._hidden.shape[1])
        size = math.prod(shape)
        if self._memory.shape[1] < size:
            self._memory = self._hidden.new_empty(2, size)
        first, second = self._memory[:, :size]
        return first.view(shape), second.view(shape)

    def _by_item(
        self, candidates: Tensor, of_scores: Tensor, passed: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Gradients of each user by the first layer, its bias, and by the tower's table and biases."""
        users, items, width = len(candidates), *self._tower.target.shape
        of_first = passed.new_empty(users, width, passed.shape[-1])
        of_bias = passed.new_empty(users, passed.shape[-1])
        of_table = passed.new_zeros(users, items, width)
        places = candidates.flatten(1) + (torch.arange(users) * items)[:, None]
        of_items = of_scores.new_zeros(users * items).index_add_(0, places.flatten(), of_scores.flatten())
        back = (self._item_in * self._out).T
        narrow = np.uint16 if items < 2**16 else np.int64  # NumPy sorts by digits what is narrow
        for user, cells in enumerate(candidates.flatten(1).numpy()):
            order = np.argsort(cells.astype(narrow), kind="stable")
            ordered = cells[order]
            starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
            distinct = torch.from_numpy(ordered[starts])
            summed = functional.embedding_bag(
                torch.from_numpy(order), passed[user].flatten(0, 1), torch.from_numpy(starts), mode="sum"
            )
            torch.mm(functional.embedding(distinct, self._tower.target).T, summed, out=of_first[user])
            torch.sum(summed, 0, out=of_bias[user])
            of_table[user].index_copy_(0, distinct, summed @ back)
        return of_first.mul_(self._out), of_bias.mul_(self._out), (of_table, of_items.view(users, items))

    def add(self, factors: Tensor) -> None:
        for kept, share in zip(self._kept, factors.split([len(one) for _, one in self._kept]), strict=True):
            self._tower.add(*kept, share)

    def total(self) -> Parameters:
        return self._tower.total()
