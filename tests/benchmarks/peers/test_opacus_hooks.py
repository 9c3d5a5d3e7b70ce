"""Opacus' hooks give the same record-level change as ours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulations.benchmarks import record_level
from simulations.benchmarks.workloads import RECORD


@pytest.mark.parametrize("clip_norm", [0.02, 10.0], ids=["all clipped", "none clipped"])
def test_all_three_ways_are_equal(clip_norm):
    settings = {**RECORD.settings, "privacy.clip_norm": clip_norm}
    small = replace(RECORD, users=4, items=120, widths={"image": 12, "text": 8}, mean_length=40, settings=settings)
    row = record_level.measured_record(users=4, repetitions=1, opacus=True, workload=small)
    assert row["difference"] <= 1e-5
    assert row["peers"]["opacus"]["difference"] <= 1e-5
    assert row["peers"]["opacus"]["ratio"] > 0


def test_windows_are_full():
    config = RECORD.config()
    work = RECORD.work(config)
    records = record_level._records(RECORD.histories(3), work)
    for one in records:
        assert (one.lengths[:-1] == work.privacy.window).all()
    assert sum(int(one.lengths.sum()) for one in records) == len(RECORD.histories(3).items)
    assert all(len(np.unique(one.keys)) == len(one) for one in records)
