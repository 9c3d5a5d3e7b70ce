"""DP-SGD on many devices at once: each its own windows, noise and parameters, in one batched tensor program a step.

All devices take a step together. A window stands in the place of a user: its gradient comes from the device's own
parameters, is clipped, and joins the device's sum (Abadi et al. 2016).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmfed.models.base import Recommender
from mmfed.training.batch import SAMPLED, Batches, Histories, modality_mask, objective_of
from mmfed.training.rows import (
    Deposits,
    OfParameter,
    OfProduct,
    Parameters,
    RowTraining,
    bounded,
    squared_norms,
    touched_rows,
)
from mmfed.training.update import LocalWork
from mmfed.types import IntArray

WINDOWS, WINDOW_BYTES = 64, 12e6  # most windows at a time, and about what their parameters take
DEVICE_BYTES = 256e6  # of all devices' parameters at a time


def trains_together(model: Recommender, work: LocalWork) -> bool:
    """Whether devices can be trained together: their windows must read few rows of the item tables."""
    return model.rowwise and model.batched and objective_of(model, work.training) in (*SAMPLED, "mse")


def devices_at_once(model: Recommender) -> int:
    """How many devices' parameters fit in memory."""
    return max(int(DEVICE_BYTES / (3 * sum(value.nbytes for value in model.shared_parameters().values()))), 1)


class DeviceSteps:
    """Clipped sums of each device's windows, and how far its parameters are from the round's.

    Args:
        model: holds the round's shared parameters; not changed.
        devices: how many.
        work: with as many local steps as will be taken.
        guard: added to a window's norm before the clip norm is divided by it.

    Attributes:
        moved: [devices, *shape] by parameter name; whoever trains changes it after every step.
    """

    def __init__(self, model: Recommender, devices: int, work: LocalWork, *, guard: float) -> None:
        section = work.training.model_copy(
            update={"learning_rate": 1.0, "steps": 1, "epochs": None, "optimiser": "sgd"}
        )
        self._model, self._section, self._work, self._guard = model, section, work, guard
        masks = [
            modality_mask(model, section, seed=work.seed, round_number=work.round_number, step=step)
            for step in range(work.training.steps)
        ]
        self._training = RowTraining(model, section, [model.present(mask) for mask in masks])
        shared = model.shared_parameters()
        self.moved = {name: value.new_zeros(devices, *value.shape) for name, value in shared.items()}
        self._chunk = int(min(max(WINDOW_BYTES / sum(value.nbytes for value in shared.values()), 8), WINDOWS))

    def sums(self, windows: Histories, owners: IntArray, step: int) -> Parameters:
        """[devices, *shape] sums of the clipped gradients of the windows, which belong to ``owners`` [windows]."""
        totals = {name: torch.zeros_like(value) for name, value in self.moved.items()}
        order = np.lexsort((windows.lengths, owners))
        for start in range(0, len(order), self._chunk):
            index = order[start : start + self._chunk]
            self._add(totals, windows.take(index), owners[index], step)
        return totals

    def _add(self, totals: Parameters, windows: Histories, owners: IntArray, step: int) -> None:
        model, work, training = self._model, self._work, self._training
        dtype = next(iter(self.moved.values())).dtype
        batches = Batches(
            windows, model=model, section=self._section, seed=work.seed, round_number=work.round_number, dtype=dtype
        )
        own = torch.zeros(len(windows), model.private_dimensions, dtype=dtype)
        touched = touched_rows([batches.at(step, own)], model.item_count, history=training.reads_history)
        items = touched.items
        if items is None:
            raise ValueError("windows that read every item are trained device by device")
        moved, owner = {}, torch.from_numpy(owners)
        if step:
            moved = {
                name: value[owner] if name in training.shared else value[owner[:, None], items]
                for name, value in self.moved.items()
            }
        deposits, _ = training.gradients(step, touched.steps[0], items, moved, own)
        change, products = self._deposited(deposits[0], len(windows), items.shape[1])
        squares = sum(map(squared_norms, change.values()), torch.zeros(len(windows), dtype=torch.float64))
        for gradient, product in products:
            squares += product.squares(gradient)
        factors = bounded(squares, work.privacy.clip_norm, self._guard).to(dtype)
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        for gradient, product in products:
            gradient.mul_(factors[:, None, None])
            for start, end in zip(starts, [*starts[1:], len(owners)], strict=True):
                rows, of_rows = product.values[start:end].flatten(0, 1), gradient[start:end].flatten(0, 1)
                totals[product.name][owners[start]].addmm_(rows.T, of_rows, alpha=product.scale)
        places = (owner[:, None] * model.item_count + items).flatten()
        for name, value in change.items():
            value = value * factors.view(-1, *[1] * (value.dim() - 1))
            if name in training.shared:
                totals[name].index_add_(0, owner, value)
            else:
                totals[name].flatten(0, 1).index_add_(0, places, value.flatten(0, 1))

    def _deposited(
        self, deposits: Deposits, windows: int, rows: int
    ) -> tuple[Parameters, list[tuple[Tensor, OfProduct]]]:
        """Gradients of each window by parameter name, but for those of projections, which stay products."""
        like, products = next(iter(self.moved.values())), []
        change = {name: like.new_zeros(windows, rows, *value.shape[1:]) for name, value in self._training.rows.items()}
        for gradient, deposit in deposits:
            if isinstance(deposit, OfProduct):
                products.append((gradient, deposit))
            elif isinstance(deposit, OfParameter) and deposit.name not in change:
                change[deposit.name] = gradient
            else:
                deposit(change, gradient, 1.0)
        return change, products
