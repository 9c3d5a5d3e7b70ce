"""A real deployment: SuperLink with TLS and node keys, two SuperNodes with half of the users each, ``flwr run``."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from loopback import Loopback
from small_run import final_model, inprocess_model, relative_error, settings, write_shop

from mmfed.config import build_config

TABLE = 'data.source="table"'
ACTIVATION_SECONDS = 60


def device(folder: Path, shop: Path, partition: int) -> str:
    """The text of a device.toml."""
    paths = f"data-dir = {json.dumps(str(shop))}\nstate-dir = {json.dumps(str(folder / 'state'))}\n"
    return f"{paths}partition-id = {partition}\nnum-partitions = 2\n"


def wait_until(seconds: float, condition, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.2)


@pytest.mark.slow
def test_a_deployment_gives_the_model_of_the_simulation(tmp_path: Path) -> None:
    """Three nodes connect; the one with another catalogue and the one without a registered key stay out."""
    shop, catalogue, other = tmp_path / "shop", tmp_path / "catalogue", tmp_path / "other"
    write_shop(shop)
    write_shop(catalogue, users=[])  # what the coordinator has: no interactions
    write_shop(other, price=1.5)
    expected = inprocess_model(tmp_path / "simulated", TABLE, f"data.path={shop}")
    deployed = settings(tmp_path / "deployed", TABLE, f"data.path={catalogue}")

    with Loopback(tmp_path / "net") as net:
        stranger = net.add_node("stranger", device(net.folder / "stranger", shop, 0), registered=False)
        for number in range(2):
            net.add_node(f"node{number}", device(net.folder / f"node{number}", shop, number))
        net.add_node("node2", device(net.folder / "node2", other, 0))
        wait_until(
            ACTIVATION_SECONDS,
            lambda: net.logs().count("Activated node_id") == 3 and stranger.poll() is not None,
            "three nodes activated and the stranger turned away",
        )
        refused = net.flwr("run", net.app, "prod", "--run-config", "rounds=3", check=False)
        mistaken = net.run({"scenario": "", "overrides": "federation.round=3"}, timeout=90)
        output = net.run({"overrides": "; ".join(deployed)}, timeout=300)
        logs = net.logs()

    assert "Invalid run configuration" in refused
    assert "unknown key federation.round" in mistaken
    assert "did you mean federation.rounds?" in mistaken
    assert "Traceback" not in mistaken
    assert stranger.returncode != 0
    assert "305" in logs
    assert "2004" in logs
    assert "its catalogue features differ from the coordinator's" in output
    found = final_model(build_config({}, deployed))
    error = relative_error(expected, found)
    assert error <= 1e-6, f"relative error {error:g}"
    rounds = [json.loads(line) for line in (tmp_path / "deployed/small/metrics.jsonl").read_text().splitlines()]
    assert [(line["round"], line["realised"]) for line in rounds] == [(1, 40), (2, 40), (3, 40)]
