"""How many worker processes pay for their start."""

from __future__ import annotations

import os
import resource
import sys

START = 30.0  # seconds that workers must save: each loads the libraries and the shop first
_FREE = 0.7  # share of the free memory that workers may fill


def worthwhile(seconds: float, *, parts: int, rounds_left: int) -> int:
    """One per core, or 1 where they would not save their start.

    Args:
        seconds: of a round's parts, computed one after another.
        parts: in that round.
        rounds_left: after it.
    """
    count = min(usable_cores(), parts, _fitting())
    saved = seconds * rounds_left * (1 - 1 / count) if count > 1 else 0.0
    return count if saved > START else 1


def usable_cores() -> int:
    """CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fitting() -> int:
    """Processes of this one's size that the free memory holds, at least 1."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return usable_cores()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return max(int(_FREE * free / peak), 1)
