"""A process that charges and releases is killed, hundreds of times: no release without a durable charge.

The process is a fork that kills itself (SIGKILL) inside the system calls of the ledger, at every point; in a second
loop it is killed from outside at a random instant. A kill alone cannot lose what was written but not synced, so loss of
power is played as well: the file is cut back to what the last completed fsync covered, and half a line may follow.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "privacy"))

from ledger_builder import make_event, make_header, make_key

from mmfed.errors import MmfedError
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.ledger import Ledger

KEY = make_key()
HEADER = make_header(target_epsilon=None)
POINTS = ("before write", "half a write", "after write", "before sync", "after sync", "before release", "after release")
KILLS_EACH = 30
RANDOM_KILLS = 60


def dead(descriptor_or_pid: int = 0) -> None:
    os.kill(descriptor_or_pid or os.getpid(), signal.SIGKILL)


def mark_synced(path: Path, size: int, write: Callable[[int, bytes, int], int] = os.pwrite) -> None:
    """Note how much of the ledger is durable, in one write that a kill cannot tear."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    write(descriptor, f"{size:020d}".encode(), 0)
    os.close(descriptor)


class Process:
    """The victim: charges round after round and releases each result; dies at the given point of the given round."""

    def __init__(self, folder: Path, *, point: str, turn: int, seed: int) -> None:
        self.ledger, self.released, self.synced = folder / "ledger.jsonl", folder / "released", folder / "synced"
        self._point, self._turn, self._seed = point, turn, seed
        self._pwrite, self._fsync = os.pwrite, os.fsync
        self._counts = dict.fromkeys(POINTS, 0)

    def run(self, rounds: int) -> None:
        os.pwrite, os.fsync = self._writes, self._syncs
        with Ledger.resume(self.ledger, HEADER, KEY) as ledger:
            first = 1 + max((line.body["round"] for line in ledger.events if line.kind == "release"), default=-1)
            for number in range(first, first + rounds):
                result = hashlib.sha256(f"{self._seed} {number}".encode()).hexdigest()
                ledger.charge(make_event(number, noise_multiplier=200.0, result_hash=result))
                self._at("before release")
                with open(self.released, "ab", buffering=0) as file:
                    file.write(result.encode() + b"\n")
                self._at("after release")

    def _at(self, point: str) -> None:
        self._counts[point] += 1
        if point == self._point and self._counts[point] == self._turn:
            dead()

    def _writes(self, descriptor: int, data: bytes, offset: int) -> int:
        self._at("before write")
        if self._point == "half a write" and self._counts["before write"] == self._turn:
            self._pwrite(descriptor, data[: len(data) // 2], offset)
            dead()
        written = self._pwrite(descriptor, data, offset)
        self._at("after write")
        return written

    def _syncs(self, descriptor: int) -> None:
        self._at("before sync")
        self._fsync(descriptor)
        mark_synced(self.synced, os.fstat(descriptor).st_size, self._pwrite)
        self._at("after sync")


def in_a_fork(work: Callable[[], None]) -> int:
    """The pid of a fork that does the work and nothing else."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def died_by_kill(pid: int) -> bool:
    status = os.waitpid(pid, 0)[1]
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def lose_power(folder: Path, generator: random.Random) -> None:
    """Cut the ledger back to what was synced; some of what was not may be left."""
    ledger, synced = folder / "ledger.jsonl", folder / "synced"
    if not ledger.exists() or not synced.exists():
        return
    durable, size = int(synced.read_text()), ledger.stat().st_size
    if size > durable:
        os.truncate(ledger, durable + generator.randrange(size - durable + 1) * generator.randrange(2))


def check(folder: Path) -> None:
    """Every released result has its charge among the durable lines, and the ledger audits after repair."""
    released = (folder / "released").read_text().split() if (folder / "released").exists() else []
    ledger = folder / "ledger.jsonl"
    if not ledger.exists():
        assert not released
        return
    durable = ledger.read_bytes()[: int((folder / "synced").read_text())] if (folder / "synced").exists() else b""
    for result in released:
        assert result.encode() in durable, "released without a durable charge"
    with Ledger.resume(ledger, HEADER, KEY) as one:
        charged = [line.body["result_hash"] for line in one.events if line.kind == "release"]
    assert set(released) <= set(charged)
    assert len(charged) == len(set(charged))


@pytest.mark.slow
def test_killed_at_every_point(tmp_path: Path) -> None:
    kills, generator = 0, random.Random(7)
    for number, point in enumerate(POINTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        Ledger.create(folder / "ledger.jsonl", HEADER, KEY).close()
        mark_synced(folder / "synced", (folder / "ledger.jsonl").stat().st_size)
        for turn in range(KILLS_EACH):
            process = Process(folder, point=point, turn=1 + turn % 3, seed=1000 * number + turn)
            assert died_by_kill(in_a_fork(lambda process=process: process.run(4))), (point, turn)
            kills += 1
            if turn % 2:
                lose_power(folder, generator)
            check(folder)
        result = audit_ledgers([folder / "ledger.jsonl"])
        assert result.holds, [str(finding) for finding in result.findings]
        assert (folder / "released").exists()
    assert kills >= 200


@pytest.mark.slow
def test_killed_at_any_instant(tmp_path: Path) -> None:
    generator = random.Random(3)
    Ledger.create(tmp_path / "ledger.jsonl", HEADER, KEY).close()
    mark_synced(tmp_path / "synced", (tmp_path / "ledger.jsonl").stat().st_size)
    kills = 0
    for turn in range(RANDOM_KILLS):
        process = Process(tmp_path, point="never", turn=0, seed=turn)
        pid = in_a_fork(lambda process=process: process.run(10_000))
        time.sleep(generator.uniform(0.0, 0.08))
        dead(pid)
        kills += died_by_kill(pid)
        check(tmp_path)
    assert kills == RANDOM_KILLS
    assert audit_ledgers([tmp_path / "ledger.jsonl"]).holds
    assert (tmp_path / "released").read_text().count("\n") >= RANDOM_KILLS / 4


@pytest.mark.parametrize("sabotage", ["release first", "no sync"])
def test_the_check_sees_a_ledger_that_does_not_keep_its_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sabotage: str
) -> None:
    """Power: a writer that releases before it charges, or never syncs, is caught."""
    Ledger.create(tmp_path / "ledger.jsonl", HEADER, KEY).close()
    mark_synced(tmp_path / "synced", (tmp_path / "ledger.jsonl").stat().st_size)
    point = "before write" if sabotage == "release first" else "after release"
    process = Process(tmp_path, point=point, turn=2, seed=1)
    charge = Ledger.charge

    def early(self: Ledger, event: object) -> int:
        with open(process.released, "ab", buffering=0) as file:
            file.write(event.result_hash.encode() + b"\n")  # type: ignore[attr-defined]
        return charge(self, event)  # type: ignore[arg-type]

    if sabotage == "release first":
        monkeypatch.setattr(Ledger, "charge", early)
    else:
        monkeypatch.setattr(Process, "_syncs", lambda self, descriptor: None)
    assert died_by_kill(in_a_fork(lambda: process.run(4)))
    with pytest.raises((AssertionError, MmfedError)):
        check(tmp_path)
