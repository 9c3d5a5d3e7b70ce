"""What a device has spent over all runs and models, and the bound on it that its owner sets.

The device's own ledgers are the account: one file per run and user, written before anything left, kept when the
private state is forgotten. Their releases compose at one δ. A user-level release counts for the user and for single
interactions; a record-level one for single interactions only. Each release is counted at its own sensitivity, so the
total holds for zero-out of one user (or interaction).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.accounting import Release, epsilon
from mmfed.privacy.audit.verify import read_ledger
from mmfed.privacy.events import release_of
from mmfed.privacy.units import check_delta
from mmfed.records import storage_faults

Unit = Literal["user", "interaction"]

DEFAULT_DELTA = 1e-6
COUNTED_MODES = (
    "user-local",
    "user-ftrl",
    "user-distributed",
    "record",
)  # modes in which a device keeps a ledger of its own


@dataclass(frozen=True)
class Lifetime:
    """The owner's bound on everything together.

    Attributes:
        state: the device's state folder, which holds the ledgers of every run.
        most: ε over all runs, nats.
        delta: at which it is counted.
    """

    state: Path
    most: float
    delta: float

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Two runs at once must not both spend what is left."""
        with storage_faults(self.state):
            self.state.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.state / "lifetime.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def refusal(self, key: int, mode: str, release: Release) -> str | None:
        """Why a release of this user would pass the bound; None when it may be charged.

        Raises:
            MmfedError: a ledger of this user is damaged: what was spent cannot be known.
        """
        unit: Unit = "interaction" if mode == "record" else "user"
        after = total_spent(self.state, key, unit=unit, delta=self.delta, more=release)
        if after <= self.most:
            return None
        return (
            f"over all runs this release would bring epsilon for one {unit} to {after:.4f}, above the {self.most:g} "
            f"that this device allows (max-total-epsilon) at delta {self.delta:.3g}"
        )


def lifetime_of(settings: Mapping[str, Any], state: Path, mode: str) -> Lifetime | None:
    """The bound in a device's settings: ``max-total-epsilon`` and, optionally, ``total-delta``; None without one.

    Raises:
        MmfedError: a setting is no such number, or the run's mode leaves the device nothing to count.
    """
    if "max-total-epsilon" not in settings:
        return None
    try:
        most, delta = float(settings["max-total-epsilon"]), float(settings.get("total-delta", DEFAULT_DELTA))
    except (TypeError, ValueError):
        most, delta = -1.0, DEFAULT_DELTA
    if not 0 < most < float("inf"):
        raise MmfedError(
            ExitCode.PRIVACY,
            f"max-total-epsilon = {settings['max-total-epsilon']!r} or total-delta: not a number above 0.",
            "correct it in the device's node config.",
        )
    if mode not in COUNTED_MODES:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"this device counts epsilon over all runs (max-total-epsilon), which it cannot do in mode {mode}.",
            f"use one of {', '.join(COUNTED_MODES)} at the coordinator, or take the setting from the device.",
        )
    return Lifetime(state, most, check_delta(delta))


def total_spent(state: Path, key: int, *, unit: Unit, delta: float, more: Release | None = None) -> float:
    """ε of one user, or of one interaction of that user, over all runs in a state folder; nats.

    Args:
        more: a release to be counted with them.

    Raises:
        MmfedError: a ledger is damaged.
    """
    found = releases_of(state, key, unit=unit)
    return epsilon([*found, *([] if more is None else [more])], delta).value


def releases_of(state: Path, key: int, *, unit: Unit) -> list[Release]:
    """Every release that counts for the unit, run by run."""
    found: list[Release] = []
    for path in sorted(state.glob(f"*/node-*-of-*/ledgers/{key:016x}.jsonl")):
        reading = read_ledger(path)
        if reading.fault is not None:
            raise MmfedError(
                ExitCode.AUDIT,
                f"{path}: line {reading.fault.line}: {reading.fault.what}.",
                "what this device has spent cannot be known; keep the file and find out who changed it.",
            )
        if unit == "user" and reading.lines[0].body["mode"] == "record":
            continue
        found += [release_of(line.body) for line in reading.lines if line.kind == "release" and line.body["steps"]]
    return found


def users_of(state: Path) -> list[int]:
    """Keys of the users that have a ledger in a state folder, sorted."""
    names = {path.stem for path in state.glob("*/node-*-of-*/ledgers/*.jsonl")}
    return sorted(int(name, 16) for name in names if len(name) == 16 and not set(name) - set("0123456789abcdef"))
