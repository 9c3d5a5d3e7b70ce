"""How a round's users are cut: everyone once, by the task alone, in parts of like work."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfed.simulation.parts import BLOCK, DEVICES, FEW, MANY, NUMBERS, PRODUCTS, cut


@given(
    lengths=st.lists(st.integers(0, 500), max_size=600),
    numbers=st.integers(0, 10**6),
    device_by_device=st.booleans(),
)
def test_everyone_is_in_one_part(lengths: list[int], numbers: int, device_by_device: bool) -> None:
    parts = cut(np.array(lengths, dtype=np.int64), numbers=numbers, device_by_device=device_by_device)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(lengths)))
    assert all((np.diff(part) > 0).all() for part in parts)
    assert len(parts) == 1 or min(len(part) for part in parts) >= (DEVICES if device_by_device else BLOCK // 2)


@pytest.mark.parametrize(
    ("users", "numbers", "expected"),
    [
        (2 * BLOCK - 1, 10, 1),  # too few to be worth it
        (2 * BLOCK, 10, 2),
        (943, 233_490, FEW),
        (8192, 10, 32),
        (10**6, 10, MANY),
        (4096, 1000 * NUMBERS, 4),  # a large update is carried and added for many users at once
    ],
)
def test_number_of_parts(users: int, numbers: int, expected: int) -> None:
    assert len(cut(np.arange(users), numbers=numbers)) == expected


def test_costly_item_tables_make_fewer_parts() -> None:
    lengths = np.arange(4096)
    assert len(cut(lengths, numbers=10, products=1024 * PRODUCTS)) == 4
    assert len(cut(lengths, numbers=10, products=64 * PRODUCTS)) == len(cut(lengths, numbers=10))


def test_parts_have_like_work() -> None:
    lengths = np.exp(np.random.default_rng(0).normal(4, 0.8, 4096)).astype(np.int64)
    work = [int(lengths[part].sum()) for part in cut(lengths, numbers=10)]
    assert max(work) < 2 * np.mean(work)
    # Blocks stay together: sorted in its part, a user has neighbours of like length, as in the whole.
    padding = [
        1 - lengths[part].sum() / sum(len(one) * lengths[one].max() for one in np.split(part, range(64, len(part), 64)))
        for part in (part[np.argsort(lengths[part])] for part in cut(lengths, numbers=10))
    ]
    assert np.mean(padding) < 0.1
