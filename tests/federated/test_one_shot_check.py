"""One-shot replies: every honest one passes, and what no history gives does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.errors import MmfedError
from mmfed.federated.one_shot_check import check_one_shot_reply
from mmfed.training.batch import Histories
from mmfed.training.cooccurrence import banded_cooccurrence, packed, packed_size, popularity_counts

ITEMS = 9


def some_histories(seed: int, users: int) -> Histories:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, 14, users)
    items = generator.integers(0, ITEMS, int(lengths.sum()))
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    zeros = np.zeros(len(items))
    return Histories(np.arange(users, dtype=np.uint64), indptr, items, zeros, zeros.astype(np.int8))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from([0.3, 0.9, 0.95, 1.0]), st.booleans())
def test_honest_replies_pass(seed: int, users: int, decay: float, part: bool) -> None:
    histories = some_histories(seed, users)
    covered = np.array([0, 2, 3, 7]) if part else None
    size = ITEMS if covered is None else len(covered)
    pairs = packed(banded_cooccurrence(histories, ITEMS, decay=decay, covered=covered))
    check_one_shot_reply("cooccurrence", pairs, size=size)
    check_one_shot_reply("popularity", popularity_counts(histories, ITEMS), size=ITEMS)


def matrix_of(**cells: float) -> np.ndarray:
    matrix = np.zeros((3, 3))
    for name, value in cells.items():
        i, j = int(name[1]), int(name[2])
        matrix[i, j] = matrix[j, i] = value
    return packed(matrix)


@pytest.mark.parametrize(
    ("vector", "says"),
    [
        (matrix_of(_01=0.7), "pairs without their items"),
        (matrix_of(_00=0.4, _11=0.4, _01=0.41), "pairs without their items"),
        (matrix_of(_00=0.5, _22=0.0, _02=0.1), "pairs without their items"),
        (matrix_of(_11=0.5, _22=0.1, _12=0.3), "pairs without their items"),
        (matrix_of(_00=0.5, _01=-0.1, _11=0.5), "negative"),
        (matrix_of(_00=-0.5), "negative"),
    ],
)
def test_what_no_history_gives_is_refused(vector: np.ndarray, says: str) -> None:
    with pytest.raises(MmfedError, match=says):
        check_one_shot_reply("cooccurrence", vector, size=3)


def test_the_bound_on_pairs_is_where_it_is_said_to_be() -> None:
    check_one_shot_reply("cooccurrence", matrix_of(_00=0.5, _11=0.5, _01=0.5), size=3)
    check_one_shot_reply("cooccurrence", np.zeros(packed_size(3)), size=3)


def test_counts_are_not_read_as_pairs() -> None:
    check_one_shot_reply("popularity", np.array([0.0, 0.6, 0.8]), size=3)
    with pytest.raises(MmfedError, match="negative"):
        check_one_shot_reply("popularity", np.array([0.0, -0.6, 0.7]), size=3)
