"""Flower's Ray simulation gives the model that the in-process grid gives, and its faults read the same."""

from __future__ import annotations

import gc
import importlib.util
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from small_run import final_model, inprocess_model, relative_error, settings

from mmfed.config import build_config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.coordinator import server_app
from mmfed.federated.participant import client_app

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture
def ray_leaks() -> Iterator[None]:
    """Ray leaves handles on /dev/null to the garbage collector."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def run_on_ray(folder: Path, *more: str) -> dict:
    from mmfed.simulation.ray import run_ray

    config = build_config({}, settings(folder, *more))
    run_ray(server_app(), client_app(folder / "state"), nodes=config.federation.nodes, run_config=config.to_flat())
    return final_model(config)


@pytest.mark.slow
@needs_ray
@pytest.mark.usefixtures("ray_leaks")
def test_ray_gives_the_inprocess_model_and_leaves_the_process_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Three nodes: with two, any order gives the same sum.
    demo = ("data.users=40", "federation.nodes=3", "federation.minimum_nodes=3")
    expected = inprocess_model(tmp_path / "inprocess", *demo)
    importlib.import_module("flwr.simulation.app")  # sets a variable for good when it is imported
    environment = dict(os.environ)
    capfd.readouterr()
    found = run_on_ray(tmp_path / "ray", *demo)
    shown = capfd.readouterr()
    assert relative_error(expected, found) <= 1e-6
    assert dict(os.environ) == environment
    assert shown.out + shown.err == ""


@pytest.mark.slow
@needs_ray
@pytest.mark.usefixtures("ray_leaks")
def test_a_fault_on_the_nodes_is_one_fault_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(MmfedError, match=r"0 of 5 nodes could enrol .* has 4 users") as raised:
        run_on_ray(tmp_path, "data.users=4", "federation.nodes=5", "federation.minimum_nodes=5")
    assert raised.value.code == ExitCode.FEDERATION
    assert str(raised.value).count("has 4 users") == 1  # told once, not once per node
    assert "Exception" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_ray_is_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmfed.simulation.ray import run_ray

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    with pytest.raises(MmfedError) as raised:
        run_ray(ServerApp(), client_app(), nodes=1, run_config={})
    assert raised.value.code == ExitCode.MISSING_EXTRA
    assert "mmfed[simulation]" in raised.value.fix


def test_what_stops_flower_before_the_coordinator_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmfed.simulation import ray

    def broken(*arguments: object, **named: object) -> None:
        raise RuntimeError("An error was encountered. Ending simulation.") from OSError("no room in /dev/shm\nmore")

    monkeypatch.setattr(ray, "run_simulation", broken)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: object())
    with pytest.raises(MmfedError, match="no room in /dev/shm") as raised:
        ray.run_ray(ServerApp(), client_app(), nodes=1, run_config={})
    assert "\n" not in raised.value.message


def test_the_coordinator_gets_the_run_config_and_its_fault_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmfed.simulation import ray

    seen = {}
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        seen.update(context.run_config)
        raise MmfedError(ExitCode.PRIVACY, "spent.", "stop.")

    def carry(app: ServerApp, *arguments: object, **named: object) -> None:
        from flwr.app import RecordDict

        try:
            app(grid=cast(Grid, SimpleNamespace(pull_messages=list)), context=Context(1, 0, {}, RecordDict(), {}))
        except Exception as fault:
            raise RuntimeError("wrapped") from fault

    monkeypatch.setattr(ray, "run_simulation", carry)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: object())
    with pytest.raises(MmfedError, match="spent") as raised:
        ray.run_ray(server, client_app(), nodes=1, run_config={"config": "x"})
    assert raised.value.code == ExitCode.PRIVACY
    assert seen == {"config": "x"}


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmfed.simulation import ray

    asked = {}

    def unreachable(*arguments: object, backend_config: dict, **named: object) -> None:
        asked.update(backend_config["init_args"])
        raise RuntimeError("wrapped") from ConnectionError("nobody answers\nmore")

    monkeypatch.setattr(ray, "run_simulation", unreachable)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: object())
    with pytest.raises(MmfedError, match=r"at 127\.0\.0\.1:1 \(nobody answers\)") as raised:
        ray.run_ray(ServerApp(), client_app(), nodes=1, run_config={}, address="127.0.0.1:1")
    assert "\n" not in str(raised.value)
    assert "ray start" in raised.value.fix
    assert asked["address"] == "127.0.0.1:1"
    assert "num_cpus" not in asked  # the cluster says how many


@needs_ray
@pytest.mark.parametrize(("hosts", "refused"), [(("a", "a"), False), (("a", "b"), True)])
def test_private_state_stays_on_one_machine(
    hosts: tuple[str, ...], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray as cluster

    from mmfed.simulation import ray

    nodes = [{"NodeManagerHostname": host, "Alive": True} for host in hosts]
    monkeypatch.setattr(cluster, "nodes", lambda: [*nodes, {"NodeManagerHostname": "gone", "Alive": False}])
    if not refused:
        ray._check_one_machine()
        return
    with pytest.raises(MmfedError, match="2 machines") as raised:
        ray._check_one_machine()
    assert raised.value.code == ExitCode.CONFIG
