"""Resampling: sizes, ancestry, limits, and what is refused."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.data.imbalance.contribution import NOBODY, Method, Pool
from mmfed.data.imbalance.resample import resample
from mmfed.errors import ExitCode, MmfedError

pytest.importorskip("imblearn")

CHANGING: tuple[Method, ...] = ("random-over", "random-under", "smote")
POOLS: tuple[Pool, ...] = get_args(Pool)


def records(seed: int = 0, people: int = 4, each: int = 24) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two numeric columns and a categorical one; class 0 is frequent, class 2 rare; every user has every class."""
    generator = np.random.default_rng(seed)
    labels = np.tile(np.r_[np.zeros(each - 6), np.ones(4), np.full(2, 2)].astype(int), people)
    groups = np.repeat(np.arange(people), each)
    values = np.column_stack([generator.normal(size=(len(labels), 2)), generator.integers(0, 3, len(labels))])
    order = generator.permutation(len(labels))
    return values[order], labels[order], groups[order], np.array([0, 0, 3])


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("method", CHANGING)
def test_classes_come_out_even_in_each_pool(method: Method, pool: Pool) -> None:
    values, labels, groups, levels = records()
    done = resample(values, labels, groups, method=method, pool=pool, privacy_mode="none", levels=levels)
    each = {"random-under": 2, "random-over": 18, "smote": 18}[method]
    assert np.bincount(done.labels).tolist() == [4 * each] * 3
    if pool == "device":
        for user in range(4):
            assert np.bincount(done.labels[done.groups == user]).tolist() == [each] * 3


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("method", CHANGING)
def test_origins_tell_the_truth(method: Method, pool: Pool) -> None:
    values, labels, groups, levels = records()
    done = resample(values, labels, groups, method=method, pool=pool, privacy_mode="none", levels=levels)
    real = done.origins >= 0
    assert np.array_equal(done.values[real], values[done.origins[real]])
    assert np.array_equal(done.labels[real], labels[done.origins[real]])
    assert np.array_equal(done.groups[real], groups[done.origins[real]])
    if method == "random-under":
        assert len(np.unique(done.origins)) == len(done)
    else:
        assert set(done.origins[real]) == set(range(len(labels)))
    assert real.all() == (method != "smote")


@pytest.mark.parametrize("pool", POOLS)
def test_smote_interpolates_numbers_and_never_categories(pool: Pool) -> None:
    values, labels, groups, levels = records()
    done = resample(values, labels, groups, method="smote", pool=pool, privacy_mode="none", levels=levels)
    made = np.flatnonzero(done.origins < 0)
    for row in made:
        mine = labels == done.labels[row]
        if pool == "device":
            mine &= groups == done.groups[row]
        parents = values[mine]
        assert (done.values[row, :2] >= parents[:, :2].min(0) - 1e-9).all()
        assert (done.values[row, :2] <= parents[:, :2].max(0) + 1e-9).all()
        assert done.values[row, 2] in parents[:, 2]
    expected = NOBODY if pool == "everyone" else set(range(4))
    assert set(done.groups[made]) == ({expected} if pool == "everyone" else expected)


def test_one_record_of_a_class_is_copied_where_smote_finds_no_neighbour() -> None:
    values = np.arange(12.0).reshape(6, 2)
    done = resample(
        values, np.array([0, 0, 0, 0, 1, 2]), np.zeros(6, int), method="smote", privacy_mode="record", most_copies=9
    )
    assert np.bincount(done.labels).tolist() == [4, 4, 4]
    assert done.privacy_multiplicity() == 4
    assert (done.origins >= 0).all()


@pytest.mark.parametrize("levels", [[0, 0], [2, 2], [0, 2]])
def test_smote_takes_all_kinds_of_columns(levels: list[int]) -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 2, (20, 2)).astype(float)
    labels = np.array([0] * 14 + [1] * 6)
    done = resample(values, labels, np.zeros(20, int), method="smote", privacy_mode="none", levels=np.array(levels))
    assert np.bincount(done.labels).tolist() == [14, 14]
    assert set(np.unique(done.values[:, np.array(levels) > 0])) <= {0.0, 1.0}


@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    method=st.sampled_from(CHANGING),
    limit=st.integers(1, 5),
    seed=st.integers(0, 5),
)
@settings(max_examples=20, deadline=None)
def test_a_limit_on_copies_holds_whatever_the_data(counts: list[int], method: Method, limit: int, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    values = np.random.default_rng(seed).normal(size=(len(labels), 3))
    groups = np.arange(len(labels)) % 2
    done = resample(
        values, labels, groups, method=method, pool="device", privacy_mode="record", most_copies=limit, seed=seed
    )
    assert 1 <= done.privacy_multiplicity() <= limit
    assert (np.bincount(done.origins[done.origins >= 0], minlength=len(labels)) <= limit).all()
    if method != "random-under":
        assert set(done.origins[done.origins >= 0]) == set(range(len(labels)))  # originals are never left out


def test_synthetic_records_count_beside_the_original() -> None:
    labels = np.array([0] * 9 + [1] * 3)
    values = np.random.default_rng(0).normal(size=(12, 2))
    for limit in (1, 2, 4):
        done = resample(
            values, labels, np.zeros(12, int), method="smote", privacy_mode="record", most_copies=limit, seed=0
        )
        assert np.bincount(done.labels).tolist() == [9, 3 + limit - 1]
        assert done.privacy_multiplicity() == limit


def test_alike_devices_draw_apart() -> None:
    values = np.arange(20.0)[:, None]
    labels = np.array([0] * 16 + [1] * 4)
    done = resample(
        np.tile(values, (2, 1)), np.tile(labels, 2), np.repeat([0, 1], 20), method="random-under", privacy_mode="record"
    )
    assert not np.array_equal(done.values[done.groups == 0], done.values[done.groups == 1])


@pytest.mark.parametrize("method", CHANGING)
def test_a_device_s_result_depends_on_nobody_else(method: Method) -> None:
    values, labels, groups, levels = records()
    everybody = resample(values, labels, groups, method=method, privacy_mode="user-central", levels=levels, seed=3)
    own = groups == 2
    alone = resample(
        values[own], labels[own], groups[own], method=method, privacy_mode="user-central", levels=levels, seed=3
    )
    assert np.array_equal(alone.values, everybody.values[everybody.groups == 2])


@pytest.mark.parametrize("method", CHANGING)
def test_same_seed_same_result_and_other_seed_another(method: Method) -> None:
    values, labels, groups, levels = records()
    first, again, other = (
        resample(values, labels, groups, method=method, privacy_mode="none", levels=levels, seed=seed).values
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_nothing_changes_with_none_or_one_class() -> None:
    values, labels, groups, _ = records()
    assert np.array_equal(resample(values, labels, groups, method="none", privacy_mode="record").values, values)
    one = np.zeros(len(labels), dtype=int)
    for method in CHANGING:
        done = resample(values, one, groups, method=method, privacy_mode="none")
        assert sorted(done.origins) == list(range(len(labels)))


@pytest.mark.parametrize("mode", ["user-central", "record"])
@pytest.mark.parametrize("method", CHANGING)
def test_across_users_is_refused_under_a_promise(method: Method, mode) -> None:
    values, labels, groups, _ = records()
    with pytest.raises(MmfedError, match="4 users needs their records in one place") as caught:
        resample(values, labels, groups, method=method, pool="everyone", privacy_mode=mode, most_copies=2)
    assert caught.value.code is ExitCode.PRIVACY
    own = groups == 0  # one device alone mixes nobody
    assert len(
        resample(
            values[own], labels[own], groups[own], method=method, pool="everyone", privacy_mode=mode, most_copies=2
        )
    )


@pytest.mark.parametrize("method", ["random-over", "smote"])
def test_record_level_privacy_needs_a_limit_on_copies(method: Method) -> None:
    values, labels, groups, _ = records()
    with pytest.raises(MmfedError, match="without most_copies"):
        resample(values, labels, groups, method=method, privacy_mode="record")
    resample(values, labels, groups, method="random-under", privacy_mode="record")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"values": np.zeros((0, 2)), "labels": np.zeros(0, int), "groups": np.zeros(0, int)}, "no table of records"),
        ({"values": np.full((3, 2), np.nan)}, "record 0, column 0 is not finite"),
        ({"labels": np.array([0, 1])}, "no table of records"),
        ({"labels": np.array([0, -1, 1])}, "negative"),
        ({"groups": np.array([0, -1, 1])}, "negative"),
        ({"method": "adasyn"}, "unknown"),
        ({"pool": "city"}, "unknown"),
        ({"most_copies": 0}, "most_copies = 0"),
    ],
)
def test_bad_input_is_named(change, says: str) -> None:
    asked = {
        "values": np.zeros((3, 2)),
        "labels": np.array([0, 1, 1]),
        "groups": np.zeros(3, int),
        "method": "random-over",
        "pool": "device",
        "privacy_mode": "none",
    } | change
    with pytest.raises(MmfedError, match=says):
        resample(asked.pop("values"), asked.pop("labels"), asked.pop("groups"), **asked)
