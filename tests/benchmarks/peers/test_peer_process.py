"""A peer in its own process answers with its sum and its times; one that cannot run says why."""

from __future__ import annotations

import numpy as np
import pytest

from mmfed.training.cohort import train_cohort
from simulations.benchmarks.differences import relative
from simulations.benchmarks.peers import comparison, environments
from simulations.benchmarks.peers.comparison import Comparison
from simulations.benchmarks.peers.process import PeerError, PeerProcess
from simulations.benchmarks.workloads import WORKLOADS

W2 = next(one for one in WORKLOADS if one.name == "W2")


@pytest.fixture(name="compared")
def compared_with(small):
    def compared(name, workload=W2):
        workload, *_ = small(workload)
        with Comparison(workload, [name], users=4) as found:
            found.measure()
            return found.result(1000.0)[name]

    return compared


def test_the_plain_loop_is_equal_and_timed(compared):
    found = compared("plain")
    assert found["difference"] <= 1e-5
    assert found["ratio"] == pytest.approx(1000.0 / found["users_per_cpu_second"])
    assert found["of"] == "cpu"


def test_a_peer_that_cannot_run_is_skipped_with_the_reason(monkeypatch, compared):
    def missing(name):
        raise PeerError(f"{name} is not there")

    monkeypatch.setattr(comparison, "python_of", missing)
    assert compared("pfl") == {"skipped": "pfl is not there"}


def test_a_peer_that_breaks_is_skipped_with_its_last_words(monkeypatch, compared):
    monkeypatch.setitem(comparison.MODULES, "plain", "no_such_peer")
    assert "no_such_peer" in compared("plain")["skipped"]


def test_ray_is_asked_for_before_it_is_needed(monkeypatch):
    monkeypatch.setattr(environments.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PeerError, match=r"mmfed\[simulation\]"):
        environments.python_of("ray")


@pytest.mark.slow
def test_shards_add_up_to_the_cohort():
    config = W2.config()
    model, work = W2.model(config), W2.work(config)
    total: dict[str, np.ndarray] = {}
    for part in range(2):
        with PeerProcess("simulations.benchmarks.shard", ["W2", "6", str(part), "2"]) as shard:
            for name, value in shard.total().items():
                total[name] = total.get(name, 0) + value
    expected = train_cohort(model, W2.histories(6), W2.vectors(model, 6), work).total
    assert relative(total, expected) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["W2", "W3", "W4"])
def test_flower_ray_is_equal(name, compared):
    found = compared("ray", next(one for one in WORKLOADS if one.name == name))
    assert found.get("skipped") is None
    assert found["difference"] <= 1e-5
    assert found["of"] == "wall"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["W1", "W2", "W3", "W4"])
def test_pfl_is_equal(name, compared):
    try:
        environments.python_of("pfl")
    except PeerError as reason:
        pytest.skip(str(reason))
    assert compared("pfl", next(one for one in WORKLOADS if one.name == name))["difference"] <= 1e-5
