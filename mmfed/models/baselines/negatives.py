"""Training negatives that know the training set only: validation and test items are among them."""

from __future__ import annotations

import torch
from torch import Tensor

NEGATIVE_TRIES = 100  # only rows still without a negative are drawn again


def draw_negatives(users: Tensor, held: Tensor, item_count: int, generator: torch.Generator) -> Tensor:
    """[interactions] a uniform item outside the user's training history for each row; -1 where none was found.

    Args:
        users: [interactions] int64 user of each row.
        held: sorted user · item_count + item of the training interactions.
    """
    negatives = torch.full_like(users, -1)
    open_rows = torch.arange(len(users))
    for _ in range(NEGATIVE_TRIES):
        draw = torch.randint(item_count, (len(open_rows),), generator=generator)
        cells = users[open_rows] * item_count + draw
        place = torch.searchsorted(held, cells).clamp(max=len(held) - 1)
        free = held[place] != cells
        negatives[open_rows[free]] = draw[free]
        open_rows = open_rows[~free]
        if len(open_rows) == 0:
            break
    return negatives
