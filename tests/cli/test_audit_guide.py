"""The commands of docs/audit.md run as written."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from small_shop import Command

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "audit.md"
BLOCKS = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.S)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.strip()]


@pytest.mark.slow
def test_every_command_runs(trained: Path, mmfed: Command) -> None:
    pytest.importorskip("jinja2")
    for line in LINES:
        words = shlex.split(line, comments=True)
        if words[0] == "mmfed":
            outcome = mmfed(*words[1:])
            assert outcome.code == 0, f"{line}\n{outcome.err}"
        else:
            done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert (trained / "audit" / "audit.html").exists()
    assert (trained / "found.csv").exists()
