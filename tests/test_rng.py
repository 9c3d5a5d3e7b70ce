"""Derived randomness: fixed for ever, uniform, and addressed by the cell alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from mmfed.rng import derive, hash_uniform, numpy_generator, torch_generator, user_key

KNOWN = {
    "derive": 3774308934653935934,
    "derive path": 8236876746825688857,
    "user": 15660740028985520573,
    "cells": [0.34329192209867343, 0.7174634974704833, 0.5186403162975799, 0.35682545293126544],
    "numpy": [-0.6688630611985444, 1.125443998289154],
    "torch": [0.20084816217422485, 0.7796475887298584],
}


def test_known_answers():
    """A change here changes every run and every device's numbers: it needs a new format version."""
    assert {
        "derive": derive(0),
        "derive path": derive(7, "local", 3, "positions"),
        "user": user_key("u1"),
        "cells": hash_uniform(42, np.array([0, 5], dtype=np.uint64), np.array([0, 9])).ravel().tolist(),
        "numpy": numpy_generator(1, "x").standard_normal(2).tolist(),
        "torch": torch.rand(2, generator=torch_generator(1, "x")).tolist(),
    } == KNOWN


def test_no_two_paths_collide():
    paths = [
        (),
        (0,),
        ("0",),
        (0, 0),
        ("", ""),
        ("ab",),
        ("a", "b"),
        ("a", "b", ""),
        (1, 23),
        (12, 3),
        ("int:1",),
        (-1,),
    ]
    assert len({derive(5, *path) for path in paths}) == len(paths)
    assert derive(5, "a") != derive(6, "a")
    assert derive(2**70, "a") != derive(2**70 + 1, "a")


def test_a_numpy_integer_is_the_number_it_holds():
    assert derive(np.int64(5), np.uint64(7), "x") == derive(5, 7, "x")


def test_other_types_are_refused():
    for part in (1.0, None, (1, 2)):
        with pytest.raises(TypeError):
            derive(0, part)


def test_nothing_global_is_touched():
    np.random.seed(1)  # noqa: NPY002 - it is the global generator that must not move
    torch.manual_seed(1)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    numpy_generator(3, "a").random(10)
    torch.rand(10, generator=torch_generator(3, "a"))
    hash_uniform(1, np.arange(4), np.arange(4))
    assert np.array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


def test_cells_are_uniform_and_independent():
    users = np.array([user_key(f"u{u}") for u in range(1000)], dtype=np.uint64)
    cells = hash_uniform(derive(0, "test"), users, np.arange(100))
    assert cells.min() >= 0
    assert cells.max() < 1
    assert stats.kstest(cells.ravel(), "uniform").pvalue > 1e-6
    for one, other in ((cells[:-1], cells[1:]), (cells[:, :-1], cells[:, 1:])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 6 / math.sqrt(one.size)
    assert np.abs(cells.mean(0) - 0.5).max() < 6 * math.sqrt(1 / 12 / 1000)
    assert np.abs(cells.mean(1) - 0.5).max() < 6 * math.sqrt(1 / 12 / 100)


def test_neighbouring_keys_and_small_rows_are_unrelated():
    """Keys and rows that differ in one bit: a weak mix would show."""
    rows, columns = np.arange(300, dtype=np.uint64), np.arange(50)
    first = hash_uniform(1000, rows, columns)
    for key in (1001, 1002, 1000 ^ (1 << 40)):
        other = hash_uniform(key, rows, columns)
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 6 / math.sqrt(first.size)
    assert stats.kstest(first.ravel(), "uniform").pvalue > 1e-6


def test_a_user_alone_is_the_user_in_a_batch():
    rows = np.array([3, 2**63 + 5, 17], dtype=np.uint64)
    whole = hash_uniform(9, rows, np.arange(20))
    assert np.array_equal(hash_uniform(9, rows[1:2], np.arange(20))[0], whole[1])
    assert np.array_equal(hash_uniform(9, rows, np.arange(7)), whole[:, :7])
    assert np.array_equal(hash_uniform(9, rows, np.array([13]))[:, 0], whole[:, 13])
    assert hash_uniform(9, rows[:0], np.arange(3)).shape == (0, 3)


def test_user_keys_do_not_collide_at_scale():
    assert len({user_key(str(number)) for number in range(50_000)}) == 50_000
