"""The benchmark compares before it measures, and a wrong update is not reported as a fast one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from simulations.benchmarks import __main__ as benchmarks
from simulations.benchmarks import population
from simulations.benchmarks.table import page
from simulations.benchmarks.workloads import WORKLOADS


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: f"{one.name} {one.about[:12]}")
def test_every_workload_is_computed_right(workload):
    small = replace(workload, users=8, few=4, items=min(workload.items, 300), mean_length=20)
    row = benchmarks.measured(small, 1e11, repetitions=1)
    assert row["difference"] <= benchmarks.TOLERANCE


def test_figures_are_written(tmp_path, monkeypatch, capsys):
    small = [replace(one, users=4, few=2, items=100, mean_length=10) for one in WORKLOADS if one.name in ("W2", "W4")]
    monkeypatch.setattr(benchmarks, "WORKLOADS", small)
    threads = torch.get_num_threads()
    benchmarks.main(["--only", "W2", "W4", "--json", str(tmp_path / "a.json"), "--markdown", str(tmp_path / "a.md")])
    torch.set_num_threads(threads)
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [row["workload"] for row in rows] == ["W2", "W4"]
    assert all(row["ratio"] == pytest.approx(row["engine"] / row["definition"]) for row in rows)
    assert "| W4 |" in (tmp_path / "a.md").read_text()
    assert "W2" in capsys.readouterr().out


def test_a_wrong_update_stops_it(monkeypatch):
    small = [replace(one, users=4, few=2, items=100, mean_length=10) for one in WORKLOADS if one.name == "W4"]
    monkeypatch.setattr(benchmarks, "WORKLOADS", small)
    honest = benchmarks.train_cohort

    def unclipped(model, histories, vectors, work):
        free = replace(work, privacy=work.privacy.model_copy(update={"clip_norm": 1e6}))
        return honest(model, histories, vectors, free)

    monkeypatch.setattr(benchmarks, "train_cohort", unclipped)
    with pytest.raises(SystemExit, match="W4 differs"):
        benchmarks.main(["--quick", "--only", "W4"])


@pytest.mark.slow
def test_a_population_is_measured(tmp_path):
    scale = population.Scale((80,), 20, 1, 80, 40, 50, 1)
    found = population.measured(scale, tmp_path)
    assert found["difference"] <= population.TOLERANCE
    whats = [(row["users"], row["what"]) for row in found["rows"]]
    assert whats == [(80, what) for what in ("write the shop", "build the files", "rounds", "an epoch")]
    assert found["rows"][-1]["rounds"] == 2
    assert "80" in page("here", [], (), found)


def test_a_population_that_differs_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(population, "disk_against_memory", lambda folder: 1e-3)
    with pytest.raises(RuntimeError, match="differs"):
        population.measured(population.QUICK, tmp_path)
