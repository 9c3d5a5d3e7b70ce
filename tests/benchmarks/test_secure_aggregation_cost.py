"""The cost table measures rounds whose sum is right, and writes what it measured."""

from __future__ import annotations

import pytest

from simulations.benchmarks import secure_aggregation


def test_a_round_is_measured() -> None:
    cost = secure_aggregation.measure(cohort=5, parameters=300)
    assert min(cost.encode, cost.protocol, cost.server) > 0
    assert cost.up > 512 * cost.bits / 8
    larger = secure_aggregation.measure(cohort=10, parameters=300)
    assert larger.down > cost.down


def test_the_page_is_written(tmp_path, capsys) -> None:
    secure_aggregation.main(["--cohort", "5", "--parameters", "100", "--markdown", str(tmp_path / "page.md")])
    assert "| 5 | 100 | " in (tmp_path / "page.md").read_text(encoding="utf-8")
    secure_aggregation.main(["--cohort", "5", "--parameters", "100"])
    assert "| 5 | 100 | " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        secure_aggregation.main(["--cohort", "5"])
