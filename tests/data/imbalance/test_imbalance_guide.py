"""docs/imbalance.md: its programs run and show what the text says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "imbalance.md"
RESAMPLING, AUGMENTATION = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)


def run(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_resampling_example() -> None:
    pytest.importorskip("imblearn")
    counts, promise, refusal = run(RESAMPLING)
    assert counts == "14 2 [1.16666667 1.16666667]"
    assert promise.startswith("(1.0, 2.6")
    assert "pool = device" in refusal


def test_augmentation_example() -> None:
    (line,) = run(AUGMENTATION)
    assert line.startswith("(32, 32, 3) ")
