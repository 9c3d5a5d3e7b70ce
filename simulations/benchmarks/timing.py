"""CPU time of a call."""

from __future__ import annotations

import time
from collections.abc import Callable


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU seconds of this process, all threads."""
    started = time.process_time()
    run()
    return time.process_time() - started
