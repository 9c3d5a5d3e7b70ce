"""``python -m mmfed``: the same as the command ``mmfed``."""

from __future__ import annotations

import sys

from mmfed.cli.main import run

if __name__ == "__main__":
    sys.exit(run())
