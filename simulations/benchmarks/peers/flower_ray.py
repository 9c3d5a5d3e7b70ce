"""Flower's Ray simulation as it is usually run: a ClientApp per user, one message per user and round.

As many nodes as users; ``run_simulation`` with two CPUs and one per client, so two Ray actors train at a time, each
with one thread. The ServerApp sends the shared parameters to every node and sums the replies (no strategy in between:
less work than a FedAvg strategy does). What a client computes is the plain loop, whose problem an actor loads once;
the private vector lives in the node's ``Context.state``.
"""

from __future__ import annotations

import logging
import os
import queue
import tempfile
import threading
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from simulations.benchmarks.peers.plain import PlainLoop
from simulations.benchmarks.peers.problem import Array, Problem

CPUS = 2
ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "OMP_NUM_THREADS": "1",
}
START, STOP = 120.0, 60.0  # seconds


@lru_cache(maxsize=1)
def loop_of(path: str) -> PlainLoop:
    """The plain loop of an actor."""
    torch.set_num_threads(1)
    return PlainLoop(Problem.load(Path(path)))


class RayRounds:
    """A simulation that runs one round per call."""

    def __init__(self, problem: Problem) -> None:
        os.environ.update(ENVIRONMENT)
        for name in ("flwr", "ray"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._problem = problem
        self._folder = tempfile.TemporaryDirectory(prefix="mmfed-benchmark-")
        self._wanted: queue.Queue[bool] = queue.Queue()
        self._found: queue.Queue[dict[str, Array] | BaseException] = queue.Queue()
        path = Path(self._folder.name) / "problem.npz"
        problem.save(path)
        self._simulation = threading.Thread(target=self._simulate, args=(_client(str(path)),), daemon=True)
        self._simulation.start()

    def __call__(self) -> dict[str, Array]:
        self._wanted.put(True)
        total = self._found.get()
        if isinstance(total, BaseException):
            raise total
        return total

    def close(self) -> None:
        self._wanted.put(False)
        self._simulation.join(STOP)
        self._folder.cleanup()

    def _simulate(self, client: ClientApp) -> None:
        server = ServerApp()

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            del context
            try:
                nodes = _all_nodes(grid, self._problem.users)
                while self._wanted.get():
                    self._found.put(self._round(grid, nodes))
            except BaseException as fault:
                self._found.put(fault)
                raise

        backend = {
            "init_args": {"num_cpus": CPUS, "log_to_driver": False, "logging_level": logging.CRITICAL},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        }
        try:
            run_simulation(server, client, num_supernodes=self._problem.users, backend_config=backend)
        except BaseException as fault:
            self._found.put(fault)

    def _round(self, grid: Grid, nodes: list[int]) -> dict[str, Array]:
        shared = {name: _flower(value) for name, value in self._problem.parameters.items()}
        content = RecordDict({"model": ArrayRecord(shared)})
        messages = [Message(content, dst_node_id=node, message_type="train", group_id="0") for node in nodes]
        total: dict[str, Array] = {name: np.zeros_like(value) for name, value in self._problem.parameters.items()}
        for reply in grid.send_and_receive(messages):
            if reply.has_error():
                raise RuntimeError(reply.error.reason)
            for name, array in reply.content.array_records["change"].items():
                total[name] += array.numpy()
        return total


def _client(path: str) -> ClientApp:
    client = ClientApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        user, loop = int(context.node_config["partition-id"]), loop_of(path)
        loop.use({name: array.numpy() for name, array in message.content.array_records["model"].items()})
        if "own" in context.state:
            loop.starts[user] = torch.from_numpy(context.state.array_records["own"]["vector"].numpy())
        total = loop.total(range(user, user + 1))
        context.state["own"] = ArrayRecord({"vector": _flower(loop.vectors[user].numpy())})
        change = ArrayRecord({name: _flower(value.numpy()) for name, value in total.items()})
        return Message(RecordDict({"change": change}), reply_to=message)

    return client


def _all_nodes(grid: Grid, count: int) -> list[int]:
    """The nodes once all are there; a round before that would miss some."""
    until = time.monotonic() + START
    while len(nodes := list(grid.get_node_ids())) < count:
        if time.monotonic() > until:
            raise TimeoutError(f"{len(nodes)} of {count} nodes came.")
        time.sleep(0.1)
    return nodes


def _flower(value: Array) -> FlowerArray:
    return FlowerArray(np.ascontiguousarray(value))


def trainer(problem: Problem) -> RayRounds:
    """Rounds that train all users once and give the sum of their clipped changes; the first one starts up."""
    return RayRounds(problem)
