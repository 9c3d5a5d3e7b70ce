"""Starts runs in processes of their own and kills them with SIGKILL; run as a script by test_resume.

Every run is a fork of this process, which has loaded the libraries and the shop: a kill is as real as any, and a start
costs milliseconds.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mmfed.config import Config, build_config
from mmfed.simulation.run import simulate

POLL = 0.002  # seconds
DURABLE = ("fsync", "replace", "link", "ftruncate")  # the calls of os by which a step becomes durable


def start(config: Config, before: Callable[[], None] | None = None) -> int:
    """Run, or go on with, a configuration in a new process; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if before is not None:
            before()
        simulate(config, resume=True)
        code = 0
    except BaseException as fault:
        sys.stderr.write(f"{type(fault).__name__}: {fault}\n")
    finally:
        os._exit(code)


def finish(child: int, seconds: float | None = None) -> bool:
    """Wait for a process, killing it after ``seconds``; True when it was killed.

    Raises:
        RuntimeError: it ended with a fault.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, 0 if deadline is None else os.WNOHANG)
        if done:
            break
        if deadline is not None and time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            deadline = None
        time.sleep(POLL)
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) != signal.SIGKILL:
            raise RuntimeError(f"the run died of signal {os.WTERMSIG(status)}")
        return True
    if os.WEXITSTATUS(status):
        raise RuntimeError(f"the run ended with {os.WEXITSTATUS(status)}")
    return False


def die_at(step: int, *, counted: Path | None = None) -> Callable[[], None]:
    """Before the run: make it kill itself just before its ``step``-th durable call (from 1); 0 counts only."""

    def patch() -> None:
        seen = 0

        def wrapped(call):
            def counting(*arguments, **options):
                nonlocal seen
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                if counted is not None:
                    counted.write_text(str(seen))
                return call(*arguments, **options)

            return counting

        for name in DURABLE:
            setattr(os, name, wrapped(getattr(os, name)))

    return patch


def named(config: Config, name: str) -> Config:
    return config.model_copy(update={"run": config.run.model_copy(update={"name": name})})


def at_random(config: Config, kills: int, generator: random.Random) -> dict[str, int]:
    """Kill runs at random instants and start them again, until there were enough kills and every run has finished."""
    began = time.monotonic()
    finish(start(named(config, "whole")))
    whole = time.monotonic() - began
    done = {}
    while sum(done.values()) < kills:
        name = f"killed-{len(done)}"
        done[name] = 0
        while finish(start(named(config, name)), generator.uniform(0.02, whole / 2)):
            done[name] += 1
    return done


def at_every_step(config: Config, most: int, generator: random.Random) -> dict[str, int]:
    """Kill one run before each durable step (or ``most`` of them, drawn), start it again and let it finish."""
    counted = config.run.folder / "steps"
    finish(start(named(config, "whole"), die_at(0, counted=counted)))
    total = int(counted.read_text())
    steps = list(range(1, total + 1)) if total <= most else sorted(generator.sample(range(1, total + 1), most))
    done = {}
    for step in steps:
        name = f"killed-{step}"
        if not finish(start(named(config, name), die_at(step))):
            continue  # secure coins drew smaller cohorts than in the run that was counted
        if finish(start(named(config, name))):
            raise RuntimeError("the second start was killed")
        done[name] = 1
    return done


def main() -> None:
    overrides, how, count = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    config = build_config({}, overrides)
    config.run.folder.mkdir(parents=True, exist_ok=True)
    os.fsync = lambda descriptor: None  # a kill loses nothing the kernel holds: waiting for the disk only costs time
    simulate(named(config, "warm"))  # the forks inherit warm caches of pure functions, which saves most of their time
    gc.freeze()
    kind = at_random if how == "random" else at_every_step
    sys.stdout.write(json.dumps(kind(config, count, random.Random(7))))


if __name__ == "__main__":
    main()
