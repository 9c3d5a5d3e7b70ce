"""A device's state folder as a whole: what is held there, and how to forget it (the right to erasure)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmfed.encoders.sealed_cache import OWN_CONTENT
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.lifetime import DEFAULT_DELTA, Unit, total_spent, users_of
from mmfed.privacy.audit.verify import read_ledger
from mmfed.privacy.key_source import Keystore, key_source, wipe
from mmfed.privacy.vault import KEYS_FILE, MOST_SEALS, SUFFIX, half_written, locked, sealed_files
from mmfed.privacy.wrapped_keys import WrappedKeys
from mmfed.records import storage_faults, sync_folder

_NODES = "*/node-*-of-*"


@dataclass(frozen=True)
class HeldRun:
    """What is held of one run on one node.

    Attributes:
        run: the run's id, as the coordinator chose it.
        node: ``node-I-of-N``.
        sealed_users: users whose vectors are sealed.
        plain: private files in clear.
        ledgers: privacy accounts, never sealed.
        mode: privacy mode of those; "" without any.
        spent: largest ε that a user has charged in the run, nats.
        target: the run's bound on it; None for none.
        refusals: rounds that the device refused.
    """

    run: str
    node: str
    sealed_users: int
    plain: int
    ledgers: int
    mode: str = ""
    spent: float = 0.0
    target: float | None = None
    refusals: int = 0

    @property
    def left(self) -> float | None:
        """ε that the run's bound leaves its worst user, nats; None without one."""
        return None if self.target is None else max(0.0, self.target - self.spent)


@dataclass(frozen=True)
class DeviceState:
    """What a state folder holds; nothing of its contents.

    Attributes:
        source: kind of secret that opens the vault; None without a vault.
        seals: how many records the data key may have sealed, of ``most_seals``.
        rotating: whether a rotation was interrupted.
        own_content: sealed records of people's encoded content.
        totals: over all runs, largest ε of one user, and of one interaction; nats, at ``total_delta``;
            None where a ledger does not hold, and nobody can know.
    """

    folder: Path
    source: str | None
    seals: int
    most_seals: int
    rotating: bool
    runs: tuple[HeldRun, ...]
    own_content: int
    totals: dict[str, float | None]
    total_delta: float

    @property
    def sealed(self) -> bool:
        """Whether there is a vault and nothing private is in clear."""
        return self.source is not None and not any(run.plain for run in self.runs)


@dataclass(frozen=True)
class Forgotten:
    """What ``forget`` did.

    Attributes:
        keys: whether there were wrapped keys to destroy.
        files: private files overwritten and removed.
        ledgers: kept.
        source: kind of secret that opened the vault.
        secret_left: whether the secret still exists where a person keeps it.
    """

    keys: bool
    files: int
    ledgers: int
    source: str | None
    secret_left: bool


def device_state(folder: Path, *, delta: float = DEFAULT_DELTA) -> DeviceState:
    """Look at a state folder; no key is needed.

    Args:
        delta: at which what was spent over all runs is counted.

    Raises:
        MmfedError: it is none, or its wrapped keys are damaged.
    """
    _check(folder)
    keys = WrappedKeys.read(folder / KEYS_FILE) if (folder / KEYS_FILE).exists() else None
    return DeviceState(
        folder=folder,
        source=None if keys is None else str(keys.derivation.get("source")),
        seals=0 if keys is None or not keys.keys else keys.keys[0].seals,
        most_seals=MOST_SEALS,
        rotating=keys is not None and len(keys.keys) > 1,
        runs=tuple(_held(node) for node in sorted(folder.glob(_NODES)) if node.is_dir()),
        own_content=sum(1 for _ in sealed_files(folder / OWN_CONTENT)),
        totals={unit: _largest_total(folder, unit, delta) for unit in ("user", "interaction")},
        total_delta=delta,
    )


def forget(folder: Path) -> Forgotten:
    """Destroy the wrapped data key, then overwrite and remove everything private; the ledgers stay.

    Without the data key no copy of a sealed record opens, wherever it is; the rest is a second line. Killed in between,
    calling it again ends the work.

    Raises:
        MmfedError: not a state folder, or a file cannot be removed.
    """
    _check(folder)
    source, secret_left = None, False
    with locked(folder):
        keys = folder / KEYS_FILE
        found = keys.exists()
        if found:
            source, secret_left = _discard_secret(folder)
        wipe(keys)
        wipe(folder / "vault.key")
        with storage_faults(folder):
            sync_folder(folder)
        private = list(_private(folder))
        files = sum(wipe(path) for path in private)
        for place in sorted({path.parent for path in private}, reverse=True):
            _remove_empty(place, folder)
    return Forgotten(found, files, len(list(_ledgers(folder))), source, secret_left)


def _discard_secret(folder: Path) -> tuple[str | None, bool]:
    """Destroy the secret where mmfed keeps it itself; its kind, and whether it is left elsewhere."""
    try:
        keys = WrappedKeys.read(folder / KEYS_FILE)
    except MmfedError:  # damaged keys are no reason to keep the rest
        return None, True
    kind = str(keys.derivation.get("source"))
    if kind == Keystore.kind:
        try:
            return kind, not Keystore().discard(keys.vault)
        except MmfedError:  # a keystore that does not answer is none either
            return kind, True
    own = key_source(None, folder)
    return kind, kind != own.kind or not (folder / "vault.key").exists()


def _check(folder: Path) -> None:
    known = (folder / KEYS_FILE).is_file() or any(folder.glob(_NODES)) or (folder / OWN_CONTENT).is_dir()
    if not known:
        raise MmfedError(
            ExitCode.STORAGE,
            f"{folder}: holds nothing of a device.",
            "name the state-dir of the device's settings (~/.local/state/mmfed where they name none).",
        )


def _held(node: Path) -> HeldRun:
    sealed = [path for path in sealed_files(node / "vectors") if path.name.removesuffix(SUFFIX).isdigit()]
    ledgers = [read_ledger(path).lines for path in _ledgers(node)]  # up to the first line that does not hold
    header = next((lines[0].body for lines in ledgers if lines), {})
    lines = [line for ledger in ledgers for line in ledger]
    charged = [float(line.body["epsilon"]) for line in lines if line.kind == "release"]
    return HeldRun(
        node.parent.name,
        node.name,
        len(sealed),
        len(list(_plain(node))),
        len(ledgers),
        mode=str(header.get("mode", "")),
        spent=max(charged, default=0.0),
        target=header.get("target_epsilon"),
        refusals=sum(line.kind == "refusal" for line in lines),
    )


def _largest_total(folder: Path, unit: Unit, delta: float) -> float | None:
    users = users_of(folder)
    try:
        return max((total_spent(folder, user, unit=unit, delta=delta) for user in users), default=0.0)
    except MmfedError:
        return None


def _ledgers(folder: Path) -> Iterator[Path]:
    yield from folder.rglob("ledgers/*.jsonl")


def _private(folder: Path) -> Iterator[Path]:
    """Private files under a folder by the names that mmfed gives them; links are not followed."""
    yield from sealed_files(folder)
    yield from half_written(folder)
    yield from _plain(folder)


def _plain(folder: Path) -> Iterator[Path]:
    """Those of them that are in clear."""
    for place, _, files in os.walk(folder):
        for name in files:
            in_vectors = Path(place).name == "vectors" and name.startswith(("vectors.f32", "rounds.i64"))
            if in_vectors or name == "key.pem" or (name.startswith(".key.pem.") and f"{SUFFIX}." not in name):
                yield Path(place, name)


def _remove_empty(place: Path, folder: Path) -> None:
    """Remove a folder and those above it that hold nothing any more, up to the state folder."""
    while place != folder and place.is_dir() and not any(place.iterdir()):
        with storage_faults(place):
            place.rmdir()
        place = place.parent
