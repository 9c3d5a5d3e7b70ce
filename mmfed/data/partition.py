"""Which users live on which node of a simulation."""

from __future__ import annotations

import numpy as np

from mmfed.errors import ExitCode, MmfedError
from mmfed.types import IntArray


def partition_users(user_count: int, partitions: int, index: int) -> IntArray:
    """The user indices of node ``index``: every ``partitions``-th user, ascending.

    The nodes share nothing, miss nobody and differ by one user at most. The stride keeps them alike where a file is
    sorted by activity or by date of joining.

    Raises:
        MmfedError: there are more nodes than users, or no such node.
    """
    if partitions < 1 or not 0 <= index < partitions:
        raise MmfedError(
            ExitCode.FEDERATION,
            f"node {index} of {partitions} does not exist.",
            "number the nodes from 0 to federation.nodes - 1.",
        )
    if partitions > user_count:
        raise MmfedError(
            ExitCode.CONFIG,
            f"federation.nodes = {partitions}, but the shop has {user_count} users: some nodes would hold nobody.",
            f"set federation.nodes to {max(user_count, 1)} or less.",
        )
    return np.arange(index, user_count, partitions, dtype=np.int64)
