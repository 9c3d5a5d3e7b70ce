"""Users are spread over nodes without loss, overlap or favour."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfed.data.partition import partition_users
from mmfed.errors import MmfedError


@given(st.integers(1, 500), st.data())
def test_nodes_hold_everyone_once_and_equally_many(users: int, data: st.DataObject) -> None:
    nodes = data.draw(st.integers(1, users))
    parts = [partition_users(users, nodes, index) for index in range(nodes)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(users))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("users", "nodes", "index"), [(5, 0, 0), (5, 2, 2), (5, 2, -1), (5, 6, 0), (0, 1, 0)])
def test_a_node_that_cannot_be_is_refused(users: int, nodes: int, index: int) -> None:
    with pytest.raises(MmfedError):
        partition_users(users, nodes, index)
