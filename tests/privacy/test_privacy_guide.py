"""The programs of docs/privacy.md run, and the hand check sees what the audit sees."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "privacy.md"
PLAN, AUDIT, BY_HAND = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)


def run(program, folder):
    return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)


def test_planning_example(tmp_path):
    done = run(PLAN, tmp_path)
    assert done.returncode == 0, done.stderr
    sigma, delta, _ = map(float, done.stdout.split())
    assert sigma == pytest.approx(1.04, abs=0.01)
    assert delta == pytest.approx(10_000**-1.1)


def test_audit_example_and_hand_check(honest_ledger):
    path = honest_ledger("ledger.jsonl")
    audited, checked = run(AUDIT, path.parent), run(BY_HAND, path.parent)
    assert audited.returncode == 0, audited.stderr
    assert audited.stdout.startswith("ledger.jsonl True 0.9")
    assert checked.returncode == 0, checked.stderr
    assert len(checked.stdout.splitlines()) == 8


@pytest.mark.parametrize("line", [0, 3, 7])
def test_hand_check_fails_on_a_tampered_ledger(honest_ledger, line):
    path = honest_ledger("ledger.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b'"kind"', b'"kinD"')
    path.write_bytes(b"".join(lines))
    assert run(BY_HAND, path.parent).returncode != 0


def test_hand_check_is_as_short_as_it_says():
    assert len([row for row in BY_HAND.splitlines() if row.strip() and not row.startswith(("import", "from"))]) <= 15
