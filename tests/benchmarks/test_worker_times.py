"""Worker processes are compared before they are timed."""

from __future__ import annotations

import json

import pytest

from simulations.benchmarks import __main__ as benchmarks
from simulations.benchmarks import workers
from simulations.benchmarks.table import page


@pytest.mark.slow
def test_rounds_are_timed_with_equal_models(tmp_path, monkeypatch, capsys):
    case = workers.Case("tiny", 150, 40, 150, workers.POOLED)
    monkeypatch.setattr(workers, "QUICK", (case,))
    benchmarks.main(["--quick", "--only", "workers", "--json", str(tmp_path / "a.json")])
    (row,) = json.loads((tmp_path / "a.json").read_text())["workers"]
    assert row["ratio"] == pytest.approx(row["walls"][0] / row["walls"][1])
    assert "tiny" in capsys.readouterr().out
    assert "| tiny | 150 |" in page("here", [], (), None, [row])


def test_models_that_differ_are_not_timed(monkeypatch):
    case = workers.Case("tiny", 10, 20, 10, (*workers.POOLED, "model.dimensions=4"))
    monkeypatch.setattr(workers, "COUNTS", (1, 1))
    honest, calls = workers._config, []

    def other_seed(*arguments):
        calls.append(None)
        return honest(*arguments).model_copy(
            update={"run": honest(*arguments).run.model_copy(update={"seed": len(calls)})}
        )

    monkeypatch.setattr(workers, "_config", other_seed)
    monkeypatch.setattr(workers, "RunFolder", lambda path: benchmarks_run(path, calls))
    with pytest.raises(RuntimeError, match="differ"):
        workers.measured((case,), rounds=1)


def benchmarks_run(path, calls):
    from mmfed.records import RunFolder

    return RunFolder(path.with_name(f"{path.name}-{len(calls)}"))
