"""A peer in a process of its own, with its own threads and, where it needs one, its own environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self

import numpy as np

from simulations.benchmarks.peers.problem import Array

ROOT = Path(__file__).parents[3]
END = 90.0  # seconds to end in before it is killed


class Seconds(NamedTuple):
    """What one training took: wall clock, and CPU of all the peer's processes."""

    wall: float
    cpu: float


class PeerError(Exception):
    """A peer did not start or stopped; the message is the reason in one line."""


class PeerProcess:
    """Runs ``module`` with ``arguments`` and the path where its sum is wanted; see ``serve``.

    Args:
        module: one that ends in ``serve.answer``.
        python: the interpreter; its environment holds what the peer needs.
        threads: of PyTorch and OpenMP, in each process.

    Raises:
        PeerError: from any method, with what it last wrote to its error output.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], *, python: str = sys.executable, threads: int = 1
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mmfed-benchmark-")
        self._total = Path(self._folder.name) / "total.npz"
        self._errors = (Path(self._folder.name) / "errors.txt").open("w+b")
        self._ready = False
        self._process = subprocess.Popen(
            [python, "-m", module, *arguments, str(self._total), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def total(self) -> dict[str, Array]:
        """The sum that the warm-up gave."""
        self._wait_until_ready()
        with np.load(self._total, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    def ask(self) -> None:
        """Have it train once more; ``answer`` waits for the end."""
        self._wait_until_ready()
        try:
            print(file=self._pipe(self._process.stdin), flush=True)
        except OSError as fault:
            raise PeerError(self._reason()) from fault

    def answer(self) -> Seconds:
        """The seconds of what ``ask`` began."""
        found = self._line()
        return Seconds(found["wall"], found["cpu"])

    def seconds(self) -> Seconds:
        """``ask`` and ``answer``."""
        self.ask()
        return self.answer()

    def close(self) -> None:
        """End it, by force if it does not end itself."""
        try:
            self._pipe(self._process.stdin).close()
            self._process.wait(END)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        finally:
            self._pipe(self._process.stdout).close()
            self._errors.close()
            self._folder.cleanup()

    def _wait_until_ready(self) -> None:
        if not self._ready:
            self._line()
            self._ready = True

    def _line(self) -> dict[str, float]:
        line = self._pipe(self._process.stdout).readline()
        if not line:
            raise PeerError(self._reason())
        return json.loads(line)

    def _reason(self) -> str:
        self._process.wait(END)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else f"exit {self._process.returncode}"

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        if pipe is None:
            raise PeerError("no pipe")
        return pipe
