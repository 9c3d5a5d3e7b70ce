"""Alternating least squares as rows of a comparison: labelled as simulated, with the ε that was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from mmfed.errors import MmfedError
from mmfed.federated.workspace import load_workspace
from mmfed.reports.compare_report import comparison_markdown
from mmfed.simulation.compare import compare
from mmfed.simulation.private_als import AlsMethod, fitted

ROWS = """
[compare]
seeds = [0, 1]
baselines = ["popularity"]
[[compare.private_als]]
name = "ALS, epsilon 2"
epsilon = 2.0
delta = 1e-3
rank = 4
items = 12
[[compare.private_als]]
name = "ALS, epsilon infinite"
rank = 4
"""


def written(configured, tmp_path, rows: str = ROWS):
    path = tmp_path / "scenario.toml"
    path.write_text(configured("federation.rounds=2", "run.name=table").to_toml() + rows)
    return path


def test_rows_have_figures_and_an_epsilon_and_say_that_no_device_ran_them(configured, tmp_path):
    result = compare(written(configured, tmp_path))
    rows = {one["name"]: one for one in result.comparison["methods"]}
    assert list(rows) == ["popularity", "ALS, epsilon 2", "ALS, epsilon infinite"]
    private, open_ = rows["ALS, epsilon 2"], rows["ALS, epsilon infinite"]
    assert private["privacy"]["epsilon"] == pytest.approx(2.0, rel=2e-3)
    assert private["privacy"]["epsilon"] <= 2.0
    assert "add/remove one user" in private["privacy"]["sentence"]
    assert open_["privacy"]["epsilon"] is None
    assert "no device runs this" in private["privacy"]["simulated"]
    assert not private["federated"]
    assert "simulated in one place" in private["kind"]
    assert 0 <= private["metrics"]["hit_rate@10"]["mean"] <= 1
    text = comparison_markdown(result.comparison)
    assert "no device runs this" in text
    assert "Simulated differential privacy" in text


def test_a_row_with_an_unknown_key_is_refused(configured, tmp_path):
    with pytest.raises(MmfedError, match="private_als"):
        compare(written(configured, tmp_path, ROWS + 'choice = "newest"\n'))


def test_items_without_factors_come_after_all_others_by_popularity(configured):
    workspace = load_workspace(configured())
    method = AlsMethod(name="x", epsilon=5.0, delta=1e-3, rank=4, items=12)
    scorer = fitted(workspace, method, seed=0)
    scores = scorer.score(workspace.split.train, np.arange(4))
    covered = scorer._covered
    rest = np.setdiff1d(np.arange(scores.shape[1]), covered)
    assert scores[:, rest].max(axis=1).max() < scores[:, covered].min()
    assert np.array_equal(np.argsort(scores[0, rest]), np.argsort(scorer._counts[rest]))
    assert np.isfinite(scores).all()
    again = fitted(workspace, method, seed=0).score(workspace.split.train, np.arange(4))
    assert np.array_equal(scores, again)
    other = fitted(workspace, method, seed=1).score(workspace.split.train, np.arange(4))
    assert not np.array_equal(scores, other)
