"""A federation under Flower's Ray simulation: the same apps, nodes spread over worker processes or a Ray cluster."""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from flwr.supercore import telemetry

from mmfed.errors import ExitCode, MmfedError

# Nothing is reported home, by neither; Ray's workers inherit this.
_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def run_ray(
    server: ServerApp,
    client: ClientApp,
    *,
    nodes: int,
    run_config: dict[str, str],
    address: str | None = None,
    private_state: bool = False,
) -> None:
    """Run a federation of ``nodes`` nodes on this machine's cores, or on a running Ray cluster.

    One worker process per core, at most one per node. Flower numbers the nodes at random; a node's config carries
    ``partition-id`` and ``num-partitions`` as the in-process grid does. Private state is where ``client_app`` was told.

    Args:
        address: HOST:PORT of the cluster's head; None takes what ``RAY_ADDRESS`` names, or starts Ray here.
        private_state: devices keep state between rounds, which no other machine can read.

    Raises:
        MmfedError: whatever stopped the coordinator; Ray is not installed, cannot start or be reached, or is spread
            over machines that would each keep a part of the private state.
    """
    if importlib.util.find_spec("ray") is None:
        raise MmfedError(
            ExitCode.MISSING_EXTRA,
            "federation.backend = ray, but Ray is not installed.",
            "pip install 'mmfed[simulation]', or take federation.backend = inprocess.",
        )
    finished: list[BaseException | None] = []
    stop = threading.Event()

    # run_simulation hands its ServerApp no run config and wraps what it raises, so an app of ours stands in between.
    carried = ServerApp()

    @carried.main()
    def main(grid: Grid, context: Context) -> None:
        context.run_config = dict(run_config)
        _stop_on(stop, grid)
        try:
            if private_state:
                _check_one_machine()
            server(grid, context)
        except BaseException as fault:
            finished.append(fault)
            raise
        finished.append(None)

    where = address or os.environ.get("RAY_ADDRESS")
    workers = {"address": where} if where else {"num_cpus": min(nodes, os.cpu_count() or 1)}
    backend = {"init_args": workers | _ray_logs(), "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    failed: list[Exception] = []

    def simulate() -> None:
        try:
            run_simulation(carried, client, num_supernodes=nodes, backend_config=backend)
        except Exception as fault:
            failed.append(fault)

    with _quiet():
        # In a thread of its own: Ctrl-C cannot interrupt the way Flower waits; this thread looks up twice a second.
        simulation = threading.Thread(target=simulate, name="ray simulation", daemon=True)
        simulation.start()
        try:
            while simulation.is_alive():
                simulation.join(0.5)
        finally:
            stop.set()
            simulation.join()
    if not finished:
        raise _cannot_start(failed[0] if failed else RuntimeError("the coordinator did not finish"), where)
    if finished[0] is not None:
        raise finished[0]


def _stop_on(stop: threading.Event, grid: Grid) -> None:
    """Make the coordinator's next look for replies the last one once ``stop`` is set."""
    pull = grid.pull_messages

    def pull_unless_stopped(message_ids: Iterable[str]) -> Iterable[Message]:
        if stop.is_set():
            raise MmfedError(ExitCode.INTERRUPTED, "interrupted.", "continue with --resume.")
        return pull(message_ids)

    grid.pull_messages = pull_unless_stopped  # type: ignore[method-assign]


def _check_one_machine() -> None:
    """Refuse to scatter private state: a node may run on another machine in every round."""
    import ray

    hosts = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    if len(hosts) > 1:
        raise MmfedError(
            ExitCode.CONFIG,
            f"the Ray cluster has {len(hosts)} machines, and the devices of this run keep private state, which would "
            "be spread over them.",
            "take a model without private state (model.private_user_vector = false, no private adapters, "
            "privacy.mode other than 'record'), or federation.backend = inprocess.",
        )


def _cannot_start(fault: Exception, address: str | None) -> MmfedError:
    """Flower or Ray gave up before the coordinator did; the innermost cause says why."""
    cause: BaseException = fault
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    if address is not None and isinstance(cause, ConnectionError):
        return MmfedError(
            ExitCode.FEDERATION,
            f"no Ray cluster can be reached at {address} ({lines[0][:200]}).",
            "start it (ray start --head --port=6379) with the same versions of Ray and Python, or correct "
            "federation.ray_address.",
        )
    return MmfedError(
        ExitCode.FEDERATION,
        f"the Ray simulation stopped: {lines[0][:300]}.",
        "set MMFED_LOG=debug to see Ray's log, or take federation.backend = inprocess.",
    )


def _debugging() -> bool:
    return os.environ.get("MMFED_LOG", "").lower() == "debug"


def _ray_logs() -> dict[str, object]:
    shown = _debugging()
    return {"log_to_driver": shown, "logging_level": logging.INFO if shown else logging.CRITICAL}


@contextmanager
def _quiet() -> Iterator[None]:
    """No telemetry; Flower's and Ray's logs and deprecation notes only with ``MMFED_LOG=debug``. Undone afterwards."""
    before = dict(os.environ)
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in before})
    telemetry_before, telemetry.FLWR_TELEMETRY_ENABLED = telemetry.FLWR_TELEMETRY_ENABLED, "0"
    loggers = {name: logging.getLogger(name) for name in ("flwr", "ray")}
    levels = {name: logger.level for name, logger in loggers.items()}
    if not _debugging():
        for logger in loggers.values():
            logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=ResourceWarning)
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"ray\.")
            yield
    finally:
        for name, logger in loggers.items():
            logger.setLevel(levels[name])
        telemetry.FLWR_TELEMETRY_ENABLED = telemetry_before
        for name in set(os.environ) - set(before):  # Ray and Flower leave theirs, sys.path in PYTHONPATH among them
            del os.environ[name]
        os.environ.update(before)
