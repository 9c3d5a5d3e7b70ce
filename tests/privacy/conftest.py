"""Ledgers for the tests of privacy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_builder import make_event, make_header, make_key

from mmfed.privacy.ledger import Ledger


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return make_key()


@pytest.fixture
def honest_ledger(tmp_path: Path, key: Ed25519PrivateKey) -> Callable[..., Path]:
    """A ledger of six releases on two lines and one refusal: eight lines with the header."""

    def make(name: str = "honest.jsonl", **changes: Any) -> Path:
        path = tmp_path / name
        with Ledger.create(path, make_header(**changes), key) as ledger:
            for number in range(3):
                ledger.charge(make_event(number))
            ledger.charge(make_event(0, line="metrics", noise_multiplier=20.0))
            ledger.refuse("budget exhausted: test", round_number=3)
            ledger.charge(make_event(3, noise_multiplier=9.0))
            ledger.charge(make_event(4, sampling="full"))
        return path

    return make
