"""The privacy unit of record mode: an interaction touches one window, and nothing else."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import ITEMS, tiny_config, tiny_model, work_of

from mmfed.training.record import SECONDS_A_DAY, _per_window, windows

DAYS, WINDOW, KEY = 2.0, 3, 99
events = st.lists(st.tuples(st.integers(0, int(9 * SECONDS_A_DAY)), st.integers(0, ITEMS - 1)), max_size=14).map(sorted)


def cut(history, *, days=DAYS, window=WINDOW, key=KEY):
    times = np.array([time for time, _ in history], dtype=np.int64)
    items = np.array([item for _, item in history], dtype=np.int64)
    return windows(items, times, key=key, window=window, days=days)


def as_dict(records):
    parts = np.split(records.items, records.indptr[1:-1]) if len(records) else []
    return {int(key): part.tolist() for key, part in zip(records.keys, parts, strict=True)}


@given(events)
def test_windows_follow_the_calendar(history):
    expected: dict[int, list[int]] = {}
    for time, item in history:
        expected.setdefault(int(time // (DAYS * SECONDS_A_DAY)), []).append(item)
    found = list(as_dict(cut(history)).values())
    assert found == [items[:WINDOW] for _, items in sorted(expected.items())]
    assert all(1 <= len(items) <= WINDOW for items in found)


def test_times_before_1970_and_empty_histories():
    assert len(cut([])) == 0
    assert list(as_dict(cut([(-1, 4), (0, 5)])).values()) == [[4], [5]]


@given(events, st.data())
def test_one_interaction_changes_one_window(history, data):
    if not history:
        return
    index = data.draw(st.integers(0, len(history) - 1))
    removed = history[:index] + history[index + 1 :]
    time, item = history[index]
    changed = [*history[:index], (time, (item + 1) % ITEMS), *history[index + 1 :]]
    before = as_dict(cut(history))
    for neighbour in (removed, changed):
        after = as_dict(cut(neighbour))
        differing = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        assert len(differing) <= 1


@settings(max_examples=30, deadline=None)
@given(events, st.data())
def test_one_interaction_changes_one_gradient(history, data):
    """Gradients, not only windows: state, targets, seen items and every random draw stay inside the window."""
    if not history:
        return
    config = tiny_config("privacy.mode=record", "training.positions=2", "training.history_dropout=0.3")
    model = tiny_model(config)
    index = data.draw(st.integers(0, len(history) - 1))
    before, after = cut(history), cut(history[:index] + history[index + 1 :])
    gradients = [_per_window(model, records, work_of(config), 0) for records in (before, after)]

    def of_window(records, gradient, key):
        found = np.flatnonzero(records.keys == key)
        return None if not len(found) else torch.cat([value[found[0]].flatten() for value in gradient.values()])

    differing = 0
    for key in set(before.keys.tolist()) | set(after.keys.tolist()):
        one = of_window(before, gradients[0], np.uint64(key))
        other = of_window(after, gradients[1], np.uint64(key))
        same = one is not None and other is not None and torch.allclose(one, other, rtol=1e-12, atol=1e-15)
        differing += not same
    assert differing <= 1


def test_windows_of_two_users_are_named_apart():
    history = [(0, 1), (int(3 * SECONDS_A_DAY), 2)]
    assert not set(cut(history, key=1).keys.tolist()) & set(cut(history, key=2).keys.tolist())
