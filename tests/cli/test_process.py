"""The command as a process: start-up, interruption, a reader that goes away, a defect."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_shop import Command, options

from mmfed import __version__

COMMAND = [sys.executable, "-m", "mmfed"]
HEAVY = {"torch", "polars", "flwr", "opacus", "transformers", "scipy", "numpy", "pydantic", "plotly", "ray"}


def seconds(*arguments: str) -> float:
    """Processor time of the quickest of three: what start-up costs, not what else the machine does."""
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def test_start_up_is_quick() -> None:
    bare = seconds("-c", "pass")
    assert seconds("-c", "import mmfed") - bare < 0.3
    assert seconds("-c", "from mmfed.cli.main import run; run(['--help'])") < 1.0


@pytest.mark.parametrize("arguments", [["--help"], ["simulate", "--help"], ["data", "check", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"import sys; from mmfed.cli.main import run; run({arguments!r}); sys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not HEAVY & set(done.stderr.split())


def test_the_package_is_the_command() -> None:
    def said(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr

    assert said("--version") == (0, f"mmfed {__version__}\n", "")
    code, out, err = said("privacy", "plan", "--mode", "nothing-known")
    assert code == 2
    assert (out, "mmfed" in err) == ("", True)


def test_interrupted_run_resumes(place: Path, mmfed: Command) -> None:
    arguments = ["simulate", *options("federation.rounds=400", "privacy.epsilon=4")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    metrics = place / "runs" / "demo" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-1] == "interrupted; continue with --resume"
    assert "Traceback" not in err
    assert mmfed("audit", "demo").code == 0
    rounds = len(metrics.read_text().splitlines())
    assert 1 <= rounds < 400


def test_reader_that_goes_away(place: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, "data", "check", "shop"], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == ""


@pytest.mark.slow
def test_output_that_cannot_show_a_character(place: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*COMMAND, "simulate", *options("privacy.epsilon=4")],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_defect_shows_its_traceback(place: Path, mmfed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("two and two are five")

    monkeypatch.setattr("mmfed.data.check.check_shop", broken)
    outcome = mmfed("data", "check", "shop")
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert outcome.err.splitlines()[-2].startswith(
        "error: this is a defect in mmfed: RuntimeError: two and two are five"
    )
    as_json = mmfed("data", "check", "shop", "--format=json")
    assert json.loads(as_json.out)["error"]["name"] == "FAULT"


def test_keyboard_interrupt_elsewhere(place: Path, mmfed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmfed.data.check.check_shop", stop)
    outcome = mmfed("data", "check", "shop")
    assert outcome.code == 130
    assert "--resume" not in outcome.err
    assert outcome.err.strip().startswith("interrupted")
