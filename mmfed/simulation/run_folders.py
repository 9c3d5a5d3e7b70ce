"""Finding, holding and putting aside run folders; light enough for commands that never load a model."""

from __future__ import annotations

import difflib
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mmfed.config import Config, build_config
from mmfed.errors import ExitCode, MmfedError
from mmfed.records import RunFolder, storage_faults, sync_folder
from mmfed.scenario_file import read_toml


def open_run(name: str, folder: Path = Path("runs"), *, data: Path | None = None) -> tuple[RunFolder, Config]:
    """A run by the path of its folder, or by its name under ``folder``, with its configuration.

    Args:
        data: where the shop is now, if it moved since.

    Raises:
        MmfedError: there is no such run (the nearest names are in the fix), or its configuration cannot be read.
    """
    path = next((one for one in (Path(name), folder / name) if (one / "config.toml").is_file()), None)
    if path is None:
        raise _no_run(name, folder)
    run = RunFolder(path)
    moved = [] if data is None else [f"data.path={str(data)!r}"]
    return run, build_config(read_toml(run.config), moved, where=str(run.config))


def run_names(folder: Path) -> list[str]:
    """Names of the runs under a folder, sorted; runs of a comparison as ``comparison/run``."""
    found = [*folder.glob("*/config.toml"), *folder.glob("*/*/config.toml")]
    return sorted(str(one.parent.relative_to(folder)) for one in found)


def _no_run(name: str, folder: Path) -> MmfedError:
    known = run_names(folder)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:5]
    what = "is a file, not a run folder" if Path(name).is_file() else "no such run"
    return MmfedError(
        ExitCode.STORAGE,
        f"{name}: {what} (neither a run folder nor a name under {folder}).",
        f"choose one of {', '.join(near)}." if near else "make one with mmfed simulate, or give its folder's path.",
    )


@contextmanager
def only_writer(run: RunFolder) -> Iterator[None]:
    """Hold the run folder's lock; the folder is made if need be.

    Raises:
        MmfedError: the folder cannot be written, or another process runs in it.
    """
    with storage_faults(run.path):
        run.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(run.path / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), os.stat(run.path / ".lock")):
                raise BlockingIOError  # the process that held it has just removed it
        except OSError:
            raise MmfedError(
                ExitCode.STORAGE,
                f"{run.path}: another process is running in this folder.",
                "wait for it, or use another name (--set run.name=NAME).",
            ) from None
        yield
    finally:
        _remove_if_empty(run.path)
        os.close(descriptor)


@contextmanager
def no_false_start(run: RunFolder) -> Iterator[None]:
    """Leave nothing of a new run that failed before it trained, charged or kept anything: its name stays free."""
    try:
        yield
    except BaseException:
        if not any(path.exists() for path in (run.ledger, run.devices, run.checkpoints, run.metrics, run.results)):
            for path in (run.config, run.environment, run.path / "key.pem", run.path / "run-id"):
                path.unlink(missing_ok=True)
        raise


def _remove_if_empty(folder: Path) -> None:
    """A run folder that holds nothing but its lock goes; called with the lock held."""
    if folder.is_dir() and [path.name for path in folder.iterdir()] == [".lock"]:
        (folder / ".lock").unlink()
        folder.rmdir()


def put_aside(path: Path) -> Path | None:
    """Rename an earlier run (or comparison) to ``NAME.1``, ``NAME.2``, …; nothing is deleted, no ledger is lost.

    Returns:
        The new place, None when there was nothing.

    Raises:
        MmfedError: another process runs in it, or it cannot be renamed.
    """
    if not path.exists():
        return None
    with ExitStack() as held:
        for lock in (*path.glob(".lock"), *path.glob("*/.lock")):
            held.enter_context(only_writer(RunFolder(lock.parent)))
        number = 1
        while (target := path.with_name(f"{path.name}.{number}")).exists():
            number += 1
        with storage_faults(path):
            path.rename(target)
            sync_folder(path.parent)
    return target
