"""The programs of docs/anonymity.md run and print what the text says they do."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE, COUNTS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "anonymity.md").read_text(encoding="utf-8"), re.S)


def lines_of(program):
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_table_example():
    before, after, found = lines_of(TABLE)
    assert before.startswith("DOES NOT HOLD")
    assert after.startswith("holds")
    assert "'age'" in found


def test_counts_example():
    counts, sentence = lines_of(COUNTS)
    assert len(re.findall(r"-?\d+", counts)) == 4
    assert "one user" in sentence
