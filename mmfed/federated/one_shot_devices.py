"""A device's part of the one-shot release where devices add the noise: each user's own vector, bounded and noised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mmfed.federated import tasks
from mmfed.federated.device_account import DeviceAccount
from mmfed.federated.one_shot_terms import check_offer, one_shot_shapes, sum_name
from mmfed.privacy.one_shot_local import LocalOneShot
from mmfed.types import FloatArray

if TYPE_CHECKING:
    from mmfed.federated.participant import Node


def single_statistics(node: Node, task: tasks.Task) -> Iterator[tuple[int, FloatArray]]:
    """Key and vector of each user asked for, of norm at most 1; not yet private: it must not leave without noise.

    Raises:
        MmfedError: as ``Node.cooccurrence``; or the release asks for more than it may (``check_offer``).
    """
    check_offer(task, node.model.item_count)
    for key in task.users:
        alone = node.cooccurrence(replace(task, users=np.array([key], dtype=np.uint64)))
        yield int(key), alone[sum_name(task.items)].numpy()


def noised_statistics(node: Node, task: tasks.Task) -> tuple[FloatArray, int]:
    """Mode ``user-local``: the sum of the users' noised vectors, and how many are in it.

    Every user's vector is bounded, noised and charged to the user's own ledger before it meets any other; a user whose
    budget or bounds do not allow it is left out, and the ledger says why.

    Raises:
        MmfedError: as ``single_statistics``; or a ledger cannot be written.
    """
    name = sum_name(task.items)
    shapes = one_shot_shapes(task.config, node.model.item_count, task.items)
    total, realised = np.zeros(shapes[name]), 0
    for key, vector in single_statistics(node, task):
        account = DeviceAccount(node.state_folder, key, task, node.vault, node.lifetime)
        if not account.admits():
            continue
        mechanism = LocalOneShot(noise_multiplier=task.noise_multiplier, noise=account.source)
        noised = mechanism.release(vector, round_number=task.round_number, purpose=f"one-shot-{name}")
        if account.charge(noised):
            total += noised
            realised += 1
    return total, realised
