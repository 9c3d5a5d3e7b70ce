"""The ledger: an append-only, hash-chained, signed record of every release, durable before the release leaves.

One canonical-JSON (RFC 8785) line per event. A line is::

    {"body": {...}, "index": n, "kind": "header" | "release" | "refusal", "previous": hex, "signature": hex}

``previous`` is the SHA-256 of the line before, without its newline (64 zeros for the header); ``signature`` is ed25519
over the canonical JSON of the line without the signature. ``privacy.audit.verify`` reads the same format without this
module's help.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.accounting import Accountant, EpsilonEstimate, Release, epsilon
from mmfed.privacy.audit.verify import Head, LedgerLine, read_ledger
from mmfed.privacy.events import LedgerHeader, Line, ReleaseEvent, header_for, joint_release, release_of, result_hash
from mmfed.records import storage_faults, sync_folder

__all__ = ["Ledger", "LedgerHeader", "Line", "ReleaseEvent", "header_for", "result_hash"]

_GENESIS = "0" * 64


class Ledger:
    """An open ledger, held by one process at a time. Make one with ``create``, ``open`` or ``resume``."""

    def __init__(self, path: Path, descriptor: int, key: Ed25519PrivateKey, lines: list[LedgerLine], end: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._key = key
        self._lines = lines
        self._end = end
        self._broken = False
        body = dict(lines[0].body)
        names = {f.name for f in fields(LedgerHeader)}
        body.update(covered=tuple(body["covered"]), not_covered=tuple(body["not_covered"]))
        self.header = LedgerHeader(**{name: body[name] for name in names})
        self.accountant = Accountant(float(self.header.delta))
        self._charged: dict[tuple[str, int, str], int] = {}
        self._included: set[int] = set()
        for line in lines:
            if line.kind == "release":
                self._remember(line)

    @classmethod
    def create(cls, path: Path, header: LedgerHeader, key: Ed25519PrivateKey) -> Ledger:
        """A new ledger holding its header, durable; the file appears whole or not at all.

        Raises:
            MmfedError: the file exists, or cannot be written.
        """
        signed = replace(header, public_key=key.public_key().public_bytes_raw().hex())
        text = _line(0, "header", asdict(signed), _GENESIS, key) + b"\n"
        with storage_faults(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                os.link(temporary, path)
            except FileExistsError:
                raise MmfedError(
                    ExitCode.AUDIT,
                    f"{path}: a ledger exists already; it is never overwritten.",
                    "continue that run with --resume, or give the new run another name.",
                ) from None
            finally:
                Path(temporary).unlink(missing_ok=True)
            sync_folder(path.parent)
        return cls.open(path, key)

    @classmethod
    def open(cls, path: Path, key: Ed25519PrivateKey) -> Ledger:
        """Verify every line, lock the file for writing, and continue after its last event.

        A last line without its newline was being written when the process died. If it is whole and valid it is kept (a
        reserved charge counts as spent); if it is not, nothing was released under it and it is cut off.

        Raises:
            MmfedError: missing, held by another process, damaged anywhere, or signed by another key.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise MmfedError(ExitCode.AUDIT, f"{path}: no such ledger.", "give the path of a ledger file.") from None
        except OSError as error:
            raise MmfedError(
                ExitCode.STORAGE, f"{path}: cannot be opened ({error.strerror}).", "make the file writable."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise MmfedError(
                ExitCode.STORAGE,
                f"{path}: another process is writing this ledger.",
                "wait until it ends, or stop it; two writers would lose charges.",
            ) from None
        try:
            public = key.public_key().public_bytes_raw().hex()
            reading = read_ledger(path, public_key=public)
            if reading.fault is not None:
                raise MmfedError(
                    ExitCode.AUDIT,
                    f"{path}: line {reading.fault.line}: {reading.fault.what}.",
                    "do not continue this ledger; keep it for the audit and find out who changed it.",
                )
            with storage_faults(path):
                if reading.torn_complete:
                    os.pwrite(descriptor, b"\n", reading.end - 1)
                os.ftruncate(descriptor, reading.end)
                os.fsync(descriptor)
            return cls(path, descriptor, key, list(reading.lines), reading.end)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def resume(cls, path: Path, header: LedgerHeader, key: Ed25519PrivateKey) -> Ledger:
        """Open the ledger at ``path``, or create it when there is none.

        Raises:
            MmfedError: the existing ledger promises something else than ``header``.
        """
        if not path.exists():
            return cls.create(path, header, key)
        ledger = cls.open(path, key)
        old, new = ledger.header.promise(), header.promise()
        changed = [name for name in new if old[name] != new[name]]
        if changed:
            ledger.close()
            raise MmfedError(
                ExitCode.PRIVACY,
                f"{path}: {changed[0]} was {old[changed[0]]!r} and is now {new[changed[0]]!r}; "
                "a promise cannot change while its budget is being spent.",
                "restore the setting, or start a run with another name.",
            )
        return ledger

    def charge(self, event: ReleaseEvent) -> int:
        """Write the charge and make it durable; only then may the result leave.

        A charge with the same line, round and result hash as an earlier one is that earlier one: the release is
        bit-identical and costs nothing more. Any other charge counts, also for a round charged before.

        Returns:
            The index of the event.

        Raises:
            MmfedError: the charge could not be made durable. Nothing may be released.
        """
        if self.is_charged(event):
            return self._charged[event.line, event.round, event.result_hash]
        if event.steps == 0:
            after = self.accountant.epsilon()
        else:
            alone, partner = event.release(), self.partner(event.shares_sample_with, event.round)
            after = self.accountant.epsilon_after(
                alone if partner is None else joint_release(partner, alone), replacing=partner
            )
        if not math.isfinite(after.value):
            raise MmfedError(
                ExitCode.PRIVACY,
                f"round {event.round}: no finite epsilon at noise_multiplier = {event.noise_multiplier!r}.",
                "use more noise; nothing was released.",
            )
        body = {**event.body(), **_claim(after, float(self.header.delta))}
        line = self._append("release", body)
        self._remember(line)
        return line.index

    def partner(self, index: int | None, round_number: int) -> Release | None:
        """The statistics release at ``index`` that another release of its round includes; None for no index.

        Raises:
            MmfedError: there is none, or it is included already.
        """
        if index is None:
            return None
        line = self._lines[index] if 0 < index < len(self._lines) else None
        found = line is not None and line.kind == "release" and line.body["line"] == "statistics"
        if line is None or not found or line.body["round"] != round_number or index in self._included:
            raise MmfedError(
                ExitCode.PRIVACY, f"round {round_number}: line {index} is no statistic to share a sample with.",
                "charge the statistic first, once; nothing was released.",
            )  # fmt: skip
        return release_of(line.body)

    def is_charged(self, event: ReleaseEvent) -> bool:
        """Whether this very result was charged before: the same release again costs nothing."""
        return (event.line, event.round, event.result_hash) in self._charged

    def refuse(self, reason: str, *, by: str = "server", round_number: int | None = None) -> int:
        """Record that a release was refused; returns the index of the event."""
        return self._append("refusal", {"reason": reason, "by": by, "round": round_number}).index

    @property
    def events(self) -> tuple[LedgerLine, ...]:
        """Every line, header first."""
        return tuple(self._lines)

    @property
    def head(self) -> Head:
        """Index and hash of the last line: anchor it with another party to make truncation visible."""
        return Head(self._lines[-1].index, self._lines[-1].hash)

    def accountant_releases(self, line: Line | None = None) -> list[Release]:
        """Everything charged, in order; of one budget line if given (then as if nothing else were released)."""
        found: dict[int, Release] = {}
        for event in self._lines:
            if event.kind != "release" or (line is not None and event.body["line"] != line):
                continue
            if event.body["steps"] == 0:
                continue
            release, index = release_of(event.body), event.body.get("shares_sample_with")
            if index is not None and line is None:
                release = joint_release(found.pop(index), release)
            found[event.index] = release
        return list(found.values())

    def spent(self, delta: float | None = None, line: Line | None = None) -> EpsilonEstimate:
        """ε of everything charged at ``delta`` (None: the header's), over all budget lines or one."""
        if line is None and (delta is None or delta == self.accountant.delta):
            return self.accountant.epsilon()
        return epsilon(self.accountant_releases(line), self.accountant.delta if delta is None else delta)

    def close(self) -> None:
        """Release the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _remember(self, line: LedgerLine) -> None:
        body = line.body
        self._charged.setdefault((body["line"], body["round"], body["result_hash"]), line.index)
        if body["steps"] == 0:
            return
        release, index = release_of(body), body.get("shares_sample_with")
        if index is not None and (partner := self.partner(index, body["round"])) is not None:
            self.accountant.remove(partner)
            self._included.add(index)
            release = joint_release(partner, release)
        self.accountant.add(release)

    def _append(self, kind: str, body: Mapping[str, Any]) -> LedgerLine:
        if self._descriptor < 0 or self._broken:
            raise MmfedError(
                ExitCode.STORAGE, f"{self.path}: the ledger is closed.", "open it again; nothing was released."
            )
        head = self.head
        text = _line(head.index + 1, kind, body, head.hash, self._key)
        try:
            _write_all(self._descriptor, text + b"\n", self._end)
            os.fsync(self._descriptor)
        except OSError as error:
            self._take_back()
            raise MmfedError(
                ExitCode.STORAGE,
                f"{self.path}: the charge could not be made durable ({error.strerror or error}); nothing was released.",
                "free space on that disk, then run again with --resume.",
            ) from error
        self._end += len(text) + 1
        line = LedgerLine(head.index + 1, kind, dict(body), hashlib.sha256(text).hexdigest())
        self._lines.append(line)
        return line

    def _take_back(self) -> None:
        """Cut a failed charge off; if even that fails, this object writes no more (``open`` recovers the file)."""
        try:
            os.ftruncate(self._descriptor, self._end)
            os.fsync(self._descriptor)
        except OSError:
            self._broken = True


def _claim(estimate: EpsilonEstimate, delta: float) -> dict[str, Any]:
    return {
        "epsilon": estimate.value,
        "epsilon_delta": delta,
        "epsilon_method": estimate.method,
        "epsilon_discretisation": estimate.discretisation,
    }


def _line(index: int, kind: str, body: Mapping[str, Any], previous: str, key: Ed25519PrivateKey) -> bytes:
    unsigned = {"index": index, "kind": kind, "body": dict(body), "previous": previous}
    signature = key.sign(rfc8785.dumps(unsigned)).hex()
    return rfc8785.dumps({**unsigned, "signature": signature})


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
