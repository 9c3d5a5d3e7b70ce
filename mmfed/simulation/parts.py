"""How a node's users of a round are cut into parts: by the task alone, so that who computes them changes no bit."""

from __future__ import annotations

import numpy as np

from mmfed.types import IntArray

BLOCK = 64  # users alike in length, which the engine computes at once
DEVICES = 32  # least in a part where each is clipped, noised and charged for itself
FEW, MANY = 8, 64  # so many parts of the least size at most; so many of four times that size
NUMBERS = 5000  # of an update for one user of a part: what it costs to carry and to add
PRODUCTS = 1_300_000  # for one user of a part: item tables are computed in every part


def cut(lengths: IntArray, *, numbers: int, products: int = 0, device_by_device: bool = False) -> list[IntArray]:
    """Places of users by part, ascending in each; every user is in one part.

    Users are dealt in blocks of like length, so that parts take about as long, and the padding is that of the whole.

    Args:
        lengths: [users] interactions.
        numbers: size of an update.
        products: multiplications that make the item tables.
        device_by_device: record-level privacy: a user is much work, and parts may be small.
    """
    block, least = (1, DEVICES) if device_by_device else (BLOCK, BLOCK)
    least = max(least, -(-numbers // NUMBERS), -(-products // PRODUCTS))
    users = len(lengths)
    count = max(min(users // least, FEW), min(users // (4 * least), MANY))
    if count < 2:
        return [np.arange(users)]
    order = np.argsort(lengths, kind="stable")
    blocks = [order[start : start + block] for start in range(0, users, block)]
    dealt = np.arange(len(blocks)) % (2 * count)  # to and fro: who gets less in one turn gets more in the next
    dealt = np.where(dealt < count, dealt, 2 * count - 1 - dealt)
    return [np.sort(np.concatenate([blocks[one] for one in np.flatnonzero(dealt == part)])) for part in range(count)]
