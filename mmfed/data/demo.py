"""The bundled demo shop: real photos, invented texts and prices, simulated shoppers."""

from __future__ import annotations

import numpy as np

from mmfed.data.demo_catalogue import demo_catalogue
from mmfed.data.demo_shoppers import Shoppers, Taste
from mmfed.data.schema import Catalogue, Interactions, Shop
from mmfed.errors import ExitCode, MmfedError

DEFAULT_USERS = 600
USERS_AT_MOST = 10**9
CHUNK = 4096


def load_demo(users: int | None = None, seed: int = 0) -> Shop:
    """The demo shop in memory; nothing is written.

    Args:
        users: number of simulated shoppers, None for ``DEFAULT_USERS``. The first n of a larger shop are the same n.
        seed: the shoppers and the items' popularity; the catalogue is always the same.

    Raises:
        MmfedError: the number of users is out of range, or bundled files are missing.
    """
    catalogue = demo_catalogue()
    interactions = simulate(catalogue, DEFAULT_USERS if users is None else users, seed)
    note = f"demo shop: {interactions.user_count} simulated shoppers on {catalogue.size} photographed items"
    return Shop("demo", catalogue, interactions, notes=(note,))


def simulate(
    catalogue: Catalogue, users: int, seed: int, *, taste: Taste | None = None, chunk: int = CHUNK
) -> Interactions:
    """Histories of the first ``users`` shoppers over a demo catalogue.

    Args:
        taste: how strongly taste decides; None for the default (see ``demo_shoppers``).
        chunk: shoppers computed at a time; changes memory, never the result.

    Raises:
        MmfedError: the number of users is out of range.
    """
    check_users(users)
    shoppers = Shoppers(catalogue, seed, taste)
    parts = [shoppers.rows(first, min(first + chunk, users)) for first in range(0, users, chunk)]
    counts = np.bincount(np.concatenate([part.shoppers for part in parts]), minlength=users)
    return Interactions(
        user_ids=[shopper_id(number) for number in range(users)],
        indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        items=np.concatenate([part.items for part in parts]),
        times=np.concatenate([part.times for part in parts]),
        actions=np.concatenate([part.actions for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        item_count=catalogue.size,
    )


def shopper_id(number: int) -> str:
    """``shopper-0000042``."""
    return f"shopper-{number:07d}"


def check_users(users: int) -> None:
    """Raise MmfedError unless a demo shop can have this many shoppers."""
    if not 1 <= users <= USERS_AT_MOST:
        raise MmfedError(
            ExitCode.CONFIG, f"the demo shop cannot have {users} users.", f"ask for 1 to {USERS_AT_MOST:,} users."
        )
