"""The commands of docs/grow.md run as written, on a smaller shop: workers, and two Ray nodes on loopback."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from small_shop import Command

from mmfed.federated.checkpoint import load_checkpoint
from mmfed.federated.progress import LATEST
from mmfed.privacy.keys import load_or_create_key
from mmfed.records import RunFolder

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "grow.md"
SMALL = ("data.users=150", "federation.rounds=2", "evaluation.bootstrap=10", 'features.modalities=["attributes"]')
ONE_CPU = ("--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats", "--block")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def started(words: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A ``ray start`` that stays in the foreground, and ends with what it started."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / words[0]), *words[1:], *ONE_CPU],
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        try:
            deadline = time.monotonic() + 120
            while b"Ray runtime started" not in log.read_bytes():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def model_of(folder: Path) -> dict[str, torch.Tensor]:
    run = RunFolder(folder)
    tensors, _ = load_checkpoint(run.checkpoints / LATEST, load_or_create_key(run.path / "key.pem"))
    return {name: value for name, value in tensors.items() if name.startswith("model.")}


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Euclidean distance over the norm of the second."""
    assert one.keys() == other.keys()
    first, second = (torch.cat([model[name].double().flatten() for name in sorted(one)]) for model in (one, other))
    return float((first - second).norm() / second.norm())


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray leaves handles on /dev/null to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_guide_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mmfed: Command) -> None:
    monkeypatch.chdir(tmp_path)
    text = GUIDE.read_text(encoding="utf-8")
    port, temporary = free_port(), Path(f"/tmp/mmfed-ray-{os.getpid()}")  # sockets need a short path
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, flags=re.S) for line in block.splitlines()]
    shared, head, second, cluster = (shlex.split(line.replace("6379", str(port))) for line in lines)
    settings = [f"--set={one}" for one in (*SMALL, f"features.cache={tmp_path / 'cache'}")]
    head += [f"--temp-dir={temporary}", "--include-dashboard=false", f"--ray-client-server-port={free_port()}"]

    outcome = mmfed(*shared[1:], *settings)
    assert outcome.code == 0, outcome.err
    assert "2 worker processes" in outcome.err
    with ExitStack() as nodes:
        for number, words in enumerate((head, second)):
            nodes.enter_context(started(words, tmp_path / f"ray-{number}.log"))
        outcome = mmfed(*cluster[1:], *settings)
    assert outcome.code == 0, outcome.err
    leftover = [name for name in os.listdir("/proc") if name.isdigit() and str(temporary) in command_line(int(name))]
    assert not leftover
    shutil.rmtree(temporary, ignore_errors=True)

    outcome = mmfed("simulate", "--set=federation.nodes=4", "--set=run.name=here", "--set=privacy.mode=none", *settings)
    assert outcome.code == 0, outcome.err
    found, expected, cut = (model_of(tmp_path / "runs" / name) for name in ("cluster", "here", "shared"))
    assert apart(found, expected) <= 1e-6
    assert apart(cut, expected) <= 1e-6


def command_line(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
