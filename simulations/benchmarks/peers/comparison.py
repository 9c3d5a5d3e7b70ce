"""A workload computed by the peers, beside the engine: equal first, then timed in turns."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mmfed.training.reference import train_users
from simulations.benchmarks.differences import relative
from simulations.benchmarks.peers.environments import python_of
from simulations.benchmarks.peers.export import problem_of, representative
from simulations.benchmarks.peers.process import PeerError, PeerProcess, Seconds
from simulations.benchmarks.workloads import Workload

MODULES = {"plain": "plain", "ray": "flower_ray", "pfl": "pfl_research"}
USERS = 64
SHARDS = 2  # as many as Ray is given cores


class Comparison:
    """The peers of one workload, warm; each in its own process.

    Args:
        workload: one that the peers know, see ``knows``.
        names: of ``MODULES``.
        users: how many a peer trains in a measurement; as long histories as the whole cohort's.
        threads: of every process but Ray's actors, which have one each.
    """

    def __init__(self, workload: Workload, names: Sequence[str], *, users: int = USERS, threads: int = 1) -> None:
        self._stack = ExitStack()
        self._users = min(users, workload.users)
        self._skipped: dict[str, str] = {}
        self._peers: dict[str, PeerProcess] = {}
        self._seconds: dict[str, list[Seconds]] = {}
        self._shards: list[PeerProcess] = []
        self._cohort, self._walls = workload.users, list[float]()
        config = workload.config()
        model = workload.model(config)
        histories = workload.histories(workload.users)
        histories = histories.take(representative(histories.lengths, self._users))
        vectors = workload.vectors(model, self._users)
        self._expected = train_users(model, histories, vectors, workload.work(config)).total
        path = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mmfed-benchmark-"))) / "problem.npz"
        problem_of(workload, config, model, histories, vectors.numpy()).save(path)
        self._differences: dict[str, float] = {}
        for name in names:
            try:
                peer = PeerProcess(
                    "simulations.benchmarks.peers.serve", [MODULES[name], str(path)], python=python_of(name),
                    threads=threads,
                )  # fmt: skip
                self._peers[name] = self._stack.enter_context(peer)
                self._differences[name] = relative(peer.total(), self._expected)
            except PeerError as fault:
                self._skipped[name] = str(fault)
                self._peers.pop(name, None)
        if "ray" in self._peers:
            for part in range(SHARDS):
                share = [workload.name, str(workload.users), str(part), str(SHARDS)]
                shard = PeerProcess("simulations.benchmarks.shard", share, threads=threads)
                self._shards.append(self._stack.enter_context(shard))
                shard.total()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def measure(self) -> None:
        """One training by each peer, and one by the engine's shards together."""
        for name, peer in list(self._peers.items()):
            try:
                self._seconds.setdefault(name, []).append(peer.seconds())
            except PeerError as fault:
                self._skipped[name] = str(fault)
                del self._peers[name]
        for shard in self._shards:
            shard.ask()
        if self._shards:
            self._walls.append(max(shard.answer().wall for shard in self._shards))

    def engine_per_second(self) -> float | None:
        """Users per second of wall clock of the engine's shards; None where nobody is compared by wall clock."""
        return self._cohort / statistics.median(self._walls) if self._walls else None

    def result(self, engine: float) -> dict[str, Any]:
        """By peer: speeds, the engine's over the peer's, and how far its update is off; or why it was skipped.

        Args:
            engine: users per CPU-second.
        """
        found: dict[str, Any] = {name: {"skipped": reason} for name, reason in self._skipped.items()}
        on_shards = self.engine_per_second()
        for name in self._peers:
            per_cpu = self._users / statistics.median(one.cpu for one in self._seconds[name])
            per_second = self._users / statistics.median(one.wall for one in self._seconds[name])
            by_wall = name == "ray" and on_shards is not None
            found[name] = {
                "users_per_cpu_second": per_cpu,
                "users_per_second": per_second,
                "ratio_cpu": engine / per_cpu,
                "ratio": on_shards / per_second if by_wall and on_shards is not None else engine / per_cpu,
                "of": "wall" if by_wall else "cpu",
                "difference": self._differences[name],
            }
        return found


def knows(workload: Workload) -> bool:
    """Whether the peers have the workload's model: W1 to W4."""
    return workload.name.startswith("W")
