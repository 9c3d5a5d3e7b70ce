"""Every way to make the lists makes the same ones."""

from __future__ import annotations

import importlib.util

from simulations.benchmarks.top_k import measured_top_k


def test_lists_are_equal():
    row = measured_top_k(users=32, repetitions=1, faiss=True, items=700)
    assert row["difference"] == 0
    assert row["peers"]["torch"]["difference"] == 0
    if importlib.util.find_spec("faiss") is None:
        assert "pip install faiss-cpu" in row["peers"]["faiss"]["skipped"]
    else:
        assert row["peers"]["faiss"]["difference"] == 0
