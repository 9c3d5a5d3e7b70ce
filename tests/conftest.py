"""Fixtures every test folder may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Tensors of tests are small: more threads cost more than they save, and those of several processes hinder one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real evaluation data sets; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the evaluation data sets are not installed at {SHARED_DATA}")
    return SHARED_DATA
