"""Which interpreter runs a peer, and why a peer cannot run here."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import venv
from pathlib import Path

import torch

from mmfed.encoders.cache import default_cache
from simulations.benchmarks.peers.process import PeerError

PFL = "0.6.0"
INSTALLING = 1800.0  # seconds


def python_of(peer: str) -> str:
    """The interpreter of "plain", "ray" or "pfl"; the last gets its environment made in the user's cache, once.

    Raises:
        PeerError: what it needs is not installed and cannot be.
    """
    if peer == "ray" and importlib.util.find_spec("ray") is None:
        raise PeerError("Ray is not installed: pip install 'mmfed[simulation]'")
    return _pfl_python(default_cache() / "benchmarks" / f"pfl-{PFL}") if peer == "pfl" else sys.executable


def _pfl_python(folder: Path) -> str:
    """An environment with pfl and the same PyTorch as ours; a half-made one is finished."""
    python, done = folder / "bin" / "python", folder / "installed"
    wanted = [f"pfl[pytorch]=={PFL}", f"torch=={torch.__version__.partition('+')[0]}", "numpy"]
    if done.exists() and done.read_text(encoding="utf-8") == "\n".join(wanted):
        return str(python)
    try:
        venv.create(folder, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
        found = subprocess.run(command, capture_output=True, text=True, timeout=INSTALLING, check=False)
    except (OSError, subprocess.SubprocessError) as fault:
        raise PeerError(f"pfl's environment cannot be made: {fault}") from fault
    if found.returncode:
        lines = [line for line in found.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise PeerError(f"pfl cannot be installed: {lines[0][:160]}")
    done.write_text("\n".join(wanted), encoding="utf-8")
    return str(python)
