"""Worker processes of a simulation: they share the parts of a round and keep what they have loaded between rounds."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Self

import numpy as np
import torch
from flwr.app import ArrayRecord

from mmfed.errors import ExitCode, MmfedError
from mmfed.simulation.part_work import Part, PartUpdate

_ENDING = 5.0  # seconds an idle worker has to end


@dataclass(eq=False)
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    connection: Connection
    arrays: ArrayRecord | None = None  # the model it was sent last


class Workers:
    """``count`` processes, started at once; close them, or use them as a context.

    They are processes of their own, not forks: nothing that this process computed or opened is shared, and it may use
    threads. None outlives this process.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._workers: list[_Worker] = []
        self._theirs, self._ours = os.pipe()  # workers end when nobody holds ours
        try:
            for number in range(1, count + 1):
                self._workers.append(self._started(number))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    @property
    def process_ids(self) -> list[int]:
        """Of the workers, by number."""
        return [worker.process.pid for worker in self._workers]

    def run(
        self, parts: Sequence[tuple[Part, ArrayRecord]], *, deadline: float | None = None
    ) -> Iterator[tuple[int, PartUpdate | MmfedError]]:
        """Compute parts, the first first; yields the place of each and its sum or fault, as they come.

        Args:
            deadline: ``time.monotonic`` after which no further part is begun.

        Raises:
            MmfedError: a worker died.
            RuntimeError: a defect in a worker, with its traceback.
        """
        waiting, busy = deque(range(len(parts))), {}
        idle = deque(self._workers)
        while True:
            while waiting and idle and (deadline is None or time.monotonic() <= deadline):
                worker, place = idle.popleft(), waiting.popleft()
                self._send(worker, *parts[place])
                busy[worker.connection] = worker, place
            if not busy:
                return
            for ready in wait(list(busy)):
                worker, place = busy.pop(ready)
                done = self._received(worker)
                idle.append(worker)
                yield place, done

    def close(self) -> None:
        """End the processes, busy or not."""
        for worker in self._workers:
            worker.connection.close()
        for end in {self._theirs, self._ours} - {-1}:  # those that compute see it at once
            os.close(end)
        self._theirs = self._ours = -1
        deadline = time.monotonic() + _ENDING
        for worker in self._workers:
            try:
                worker.process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers = []

    def _started(self, number: int) -> _Worker:
        ours, theirs = socket.socketpair()
        handles = (theirs.fileno(), self._theirs)
        command = [sys.executable, "-m", "mmfed.simulation.worker", *map(str, (*handles, torch.get_num_threads()))]
        with theirs:
            process = subprocess.Popen(
                command,
                pass_fds=handles,
                stdin=subprocess.DEVNULL,
                stdout=2,  # this process's standard output is for results
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                process_group=0,  # Ctrl-C is for this process, which then ends them
            )
        return _Worker(number, process, Connection(ours.detach()))

    def _send(self, worker: _Worker, part: Part, arrays: ArrayRecord) -> None:
        new = None if worker.arrays is arrays else arrays
        try:
            worker.connection.send((part, new))
        except ConnectionError:
            raise self._died(worker) from None
        worker.arrays = arrays

    def _received(self, worker: _Worker) -> PartUpdate | MmfedError:
        try:
            done = worker.connection.recv()
            if isinstance(done, str):
                raise RuntimeError(f"a defect in worker process {worker.number}:\n{done}")
            if isinstance(done, MmfedError):
                return done
            shapes, realised, size = done
            vector = np.empty(size)
            worker.connection.recv_bytes_into(vector.data.cast("B"))
        except (EOFError, ConnectionError):
            raise self._died(worker) from None
        return PartUpdate(shapes, vector, realised)

    def _died(self, worker: _Worker) -> MmfedError:
        try:
            code = worker.process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            how = "closed its connection"
        else:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        more = " (out of memory, most often)" if how.endswith("SIGKILL") else ""
        return MmfedError(
            ExitCode.FEDERATION,
            f"worker {worker.number} of {self.count} (process {worker.process.pid}) {how}{more}: the round is lost.",
            "continue with --resume; if memory was short, with fewer of them (--workers 1).",
        )
