"""Ledgers for the tests of privacy, and a writer that can lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mmfed.privacy.events import LedgerHeader, ReleaseEvent
from mmfed.privacy.units import guarantee_for


def make_key(seed: int = 1) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"key {seed}".encode()).digest())


def make_header(**changes: Any) -> LedgerHeader:
    guarantee = guarantee_for("user-central", epsilon=8.0, population=1000)
    values = {
        "run_id": "test",
        "mode": "user-central",
        "unit": guarantee.unit,
        "adjacency": guarantee.adjacency,
        "trust": guarantee.trust,
        "covered": guarantee.covered,
        "not_covered": guarantee.not_covered,
        "population": 1000,
        "population_basis": "enrolled before round 0",
        "delta": guarantee.delta,
        "delta_reason": guarantee.delta_reason,
        "target_epsilon": 8.0,
        "noise_source": "seeded",
        "code_version": "0.1.0",
        "lock_hash": "0" * 64,
    }
    return LedgerHeader(**{**values, **changes})


def make_event(round_number: int, **changes: Any) -> ReleaseEvent:
    values = {
        "round": round_number,
        "clip_norm": 0.1,
        "noise_multiplier": 6.0,
        "sampling": "full",
        "sampling_rate": 1.0,
        "planned_cohort": 1000,
        "realised_cohort": 998,
        "dropouts": 2,
        "result_hash": hashlib.sha256(f"{round_number} {changes}".encode()).hexdigest(),
    }
    return ReleaseEvent(**{**values, **changes})


def write_chain(path: Path, entries: Iterable[tuple[str, Mapping[str, Any]]], key: Ed25519PrivateKey) -> Path:
    """A well-formed chain with any bodies, independent of the ledger's own writer."""
    previous, lines = "0" * 64, []
    for index, (kind, body) in enumerate(entries):
        unsigned = {"body": dict(body), "index": index, "kind": kind, "previous": previous}
        raw = rfc8785.dumps({**unsigned, "signature": key.sign(rfc8785.dumps(unsigned)).hex()})
        previous = hashlib.sha256(raw).hexdigest()
        lines.append(raw + b"\n")
    path.write_bytes(b"".join(lines))
    return path
