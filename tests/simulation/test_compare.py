"""Comparisons: figures of the scenario as it stands, never those of an earlier one."""

from __future__ import annotations

import pytest

from mmfed.errors import ExitCode, MmfedError
from mmfed.simulation import compare as module
from mmfed.simulation.compare import compare

METHODS = """
[compare]
seeds = [0, 1]
baselines = ["popularity"]
[[compare.methods]]
name = "plain"
set = {{ "privacy.mode" = "none", "training.learning_rate" = {rate} }}
[[compare.methods]]
name = "private"
set = {{ "privacy.mode" = "user-central" }}
"""


@pytest.fixture
def scenario(configured, tmp_path):
    def write(rate: float = 1.0):
        path = tmp_path / "scenario.toml"
        path.write_text(configured("federation.rounds=2", "run.name=table").to_toml() + METHODS.format(rate=rate))
        return path

    return write


def test_every_method_and_baseline_is_in_the_table(scenario):
    result = compare(scenario())
    methods = {one["name"]: one for one in result.comparison["methods"]}
    assert list(methods) == ["popularity", "plain", "private"]
    assert methods["plain"]["privacy"]["epsilon"] is None
    assert methods["private"]["privacy"]["epsilon"] > 0
    assert result.comparison["seeds"] == [0, 1]
    assert sorted(one.name for one in result.folder.iterdir() if one.is_dir()) == [
        "plain-seed0",
        "plain-seed1",
        "private-seed0",
        "private-seed1",
    ]


def test_finished_runs_are_not_repeated(scenario, monkeypatch):
    first = compare(scenario())
    with pytest.raises(MmfedError, match="holds a comparison already"):
        compare(scenario())
    monkeypatch.setattr(module, "simulate", lambda *arguments, **options: pytest.fail("trained again"))
    assert compare(scenario(), resume=True).comparison == first.comparison


def test_a_changed_scenario_does_not_inherit_finished_runs(scenario):
    compare(scenario(1.0))
    with pytest.raises(MmfedError) as fault:
        compare(scenario(0.5), resume=True)
    assert fault.value.code is ExitCode.CONFIG
    assert "training.learning_rate" in fault.value.message


def test_another_list_length_only_redoes_the_figures(scenario):
    compare(scenario())
    again = compare(scenario(), ["evaluation.k=[5, 10]"], resume=True)
    assert "ndcg@5" in again.comparison["methods"][0]["metrics"]
