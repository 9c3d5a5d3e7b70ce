"""Derivatives of the full softmax by its scores, a few users at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mmfed.models.base import HistoryBatch
from mmfed.training.batch import TrainingBatch

BLOCK_BYTES = 1_700_000  # of scores at a time, so that they stay near the processor


class SoftmaxDerivatives:
    """Of a batch: what its users had before each position is no candidate, but for the target itself.

    Args:
        batch: with the full softmax's targets.
        items: in the catalogue.
    """

    def __init__(self, batch: TrainingBatch, items: int) -> None:
        self._targets, self._items = batch.targets, items
        self._cells, self._starts = _seen(batch.histories, items)

    def blocks(self, bytes_of_a_user: int) -> Iterator[slice]:
        """The users, so many at a time as ``BLOCK_BYTES`` allow."""
        size = max(BLOCK_BYTES // max(bytes_of_a_user, 1), 1)
        for start in range(0, len(self._targets), size):
            yield slice(start, min(start + size, len(self._targets)))

    def __call__(self, scores: Tensor, users: slice, out: Tensor) -> Tensor:
        """Write the derivatives of -log softmax at the targets.

        Args:
            scores: [users · states, items] of the users of the slice; what was seen is overwritten.
            users: which of the batch.
            out: [users · states, items] takes the derivatives; may be ``scores``.

        Returns:
            [users · states, 1] scores of the targets.
        """
        targets = self._targets[users].flatten()[:, None]
        of_targets = scores.gather(1, targets)
        first = users.start * self._targets.shape[1] * self._items
        cells = self._cells[self._starts[users.start] : self._starts[users.stop]] - first
        scores.view(-1).index_fill_(0, cells, float("-inf"))
        scores.scatter_(1, targets, of_targets)  # the target itself may have been seen
        rows = torch.softmax(scores, dim=1, out=out)
        rows.scatter_add_(1, targets, torch.full_like(of_targets, -1.0))
        return of_targets


def _seen(histories: HistoryBatch, items: int) -> tuple[Tensor, np.ndarray]:
    """What the users had before each position, as cells of [users, states, items], and where each user's start."""
    known, positions = histories.known.sum(1).numpy(), histories.positions.numpy()
    counts = np.where(histories.others.numpy() > 0, known[:, None], np.minimum(positions, known[:, None])).astype(int)
    ends = np.cumsum(counts.ravel())
    events = np.arange(ends[-1]) - np.repeat(ends - counts.ravel(), counts.ravel())
    of_user = np.arange(len(positions)) * histories.items.shape[1]
    places = np.repeat(np.repeat(of_user, positions.shape[1]), counts.ravel()) + events
    cells = np.repeat(np.arange(len(ends)) * items, counts.ravel()) + histories.items.numpy().ravel()[places]
    by_user = counts.sum(1)
    if histories.own:  # a person's own content is no item
        an_item = torch.ones_like(histories.known).scatter_add_(1, histories.own.slots, -histories.own.known) > 0
        kept = an_item.numpy().ravel()[places]
        by_user = np.bincount(np.repeat(np.arange(len(by_user)), by_user)[kept], minlength=len(by_user))
        cells = cells[kept]
    return torch.from_numpy(cells), np.concatenate([[0], np.cumsum(by_user)])
