"""The training loop of the pairwise baselines: Bayesian personalised ranking (Rendle et al. 2009) with Adam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmfed.data.schema import Interactions
from mmfed.errors import ExitCode, MmfedError
from mmfed.models.baselines.negatives import draw_negatives


class Pairs(NamedTuple):
    """What a batch of triples looks like to the loss.

    Attributes:
        margin: [triples] score of the liked item minus score of the other.
        penalty: scalar, sum of the squares that ``weight_decay`` weighs.
    """

    margin: Tensor
    penalty: Tensor


PairFunction = Callable[[Tensor, Tensor, Tensor], Pairs]
"""Maps users, liked items and other items, all [triples] int64, to ``Pairs``."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        epochs: passes over the interactions, with a new negative for each at each pass; the most there will be where
            training stops early.
        batch: triples per step.
        weight_decay: L2 weight on ``Pairs.penalty``, per triple.
        patience: epochs without a gain before training stops early.
    """

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    patience: int = 1

    def check(self, baseline: str, dimensions: int) -> None:
        """Refuse what cannot be trained.

        Raises:
            MmfedError: a count below 1, a learning rate that is not positive or a negative weight decay.
        """
        if (
            min(dimensions, self.epochs, self.batch, self.patience) < 1
            or not 0 < self.learning_rate < np.inf
            or not 0 <= self.weight_decay < np.inf
        ):
            raise MmfedError(
                ExitCode.CONFIG,
                f"{baseline}: dimensions {dimensions}, epochs {self.epochs}, patience {self.patience}, "
                f"batch {self.batch}, learning_rate {self.learning_rate} and weight_decay {self.weight_decay} "
                "are not valid.",
                "take whole numbers >= 1, learning_rate > 0 and weight_decay >= 0.",
            )


def fit_pairwise(
    train: Interactions,
    parameters: Sequence[Tensor],
    pairs: PairFunction,
    schedule: Schedule,
    generator: torch.Generator,
    *,
    before_epoch: Callable[[], None] = lambda: None,
    quality: Callable[[], float] | None = None,
) -> None:
    """Minimise softplus(-margin) + weight_decay / 2 · penalty over ``parameters``, in place.

    A user who has everything has no negative and takes no part.

    Args:
        quality: asked after every epoch; the parameters end as they were when it was highest, and training stops after
            ``schedule.patience`` epochs that did not raise it. None trains all epochs.
    """
    best, best_epoch, kept = -np.inf, 0, [parameter.detach().clone() for parameter in parameters]
    optimiser = torch.optim.Adam(list(parameters), lr=schedule.learning_rate, fused=True)
    users = torch.from_numpy(train.user_of_row().astype(np.int64))
    liked = torch.from_numpy(np.asarray(train.items, dtype=np.int64))
    held = torch.unique(users * train.item_count + liked)
    for epoch in range(schedule.epochs):
        before_epoch()
        order = torch.randperm(len(users), generator=generator)
        others = draw_negatives(users, held, train.item_count, generator)
        for rows in order.split(schedule.batch):
            rows = rows[others[rows] >= 0]
            if len(rows) == 0:
                continue
            margin, penalty = pairs(users[rows], liked[rows], others[rows])
            loss = functional.softplus(-margin).mean() + 0.5 * schedule.weight_decay * penalty / len(rows)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        if quality is None:
            continue
        reached = quality()
        if reached > best:
            best, best_epoch, kept = reached, epoch, [parameter.detach().clone() for parameter in parameters]
        elif epoch - best_epoch >= schedule.patience:
            break
    if quality is not None:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)


def vector_table(rows: int, dimensions: int, generator: torch.Generator, *, scale: float = 0.05) -> Tensor:
    """Trainable vectors [rows, dimensions], normal with standard deviation ``scale``."""
    return (scale * torch.randn(rows, dimensions, generator=generator)).requires_grad_()


def squares(*parts: Tensor) -> Tensor:
    """Sum of all squares."""
    return torch.stack([part.square().sum() for part in parts]).sum()
