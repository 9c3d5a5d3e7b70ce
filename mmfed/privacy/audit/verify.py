"""Reading a ledger while trusting nobody: canonical form, chain, signatures, fields, order.

Needs the file and, better, a public key obtained some other way: the key in the header proves only that one party wrote
every line. Imports no accountant.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.audit.fields import Order, fault_in_body
from mmfed.records import write_json

GENESIS = "0" * 64
_KEYS = {"index", "kind", "body", "previous", "signature"}
_LONGEST_LINE = 1 << 20
_HEX = set("0123456789abcdef")


@dataclass(frozen=True)
class Head:
    """Index and hash of a ledger's last line at some time. Kept by another party, it makes truncation visible."""

    index: int
    hash: str

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, {"index": self.index, "hash": self.hash})

    @classmethod
    def load(cls, path: Path) -> Head:
        """Read what ``save`` wrote.

        Raises:
            MmfedError: missing or not a head.
        """
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            index, digest = tree["index"], str(tree["hash"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            index, digest = None, ""
        if not isinstance(index, int) or isinstance(index, bool) or index < 0 or not _is_hex(digest, 64):
            raise MmfedError(ExitCode.AUDIT, f"{path}: not a ledger head.", "give a file written by Head.save.")
        return cls(index, digest)


@dataclass(frozen=True)
class LedgerLine:
    """One verified line. ``hash`` is the SHA-256 of its bytes, which the next line repeats."""

    index: int
    kind: str
    body: Mapping[str, Any]
    hash: str


@dataclass(frozen=True)
class Fault:
    """The first bad line (1 is the header) and what is wrong with it."""

    line: int
    what: str


@dataclass(frozen=True)
class Reading:
    """What a ledger file holds.

    Args:
        lines: verified lines, up to the first fault.
        fault: the first fault, None when all complete lines hold.
        end: bytes up to and with the last good line.
        torn: the file does not end in a newline: something was being written, or the file was cut.
        torn_complete: only the newline of a valid last line is missing; that line is in ``lines``.
    """

    lines: tuple[LedgerLine, ...]
    fault: Fault | None
    end: int
    torn: bool = False
    torn_complete: bool = False


@dataclass
class _Chain:
    public_key: str | None
    lines: list[LedgerLine] = field(default_factory=list)
    previous: str = GENESIS
    key: Ed25519PublicKey | None = None
    order: Order = field(default_factory=Order)

    def add(self, raw: bytes) -> str | None:
        """Verify and append one line; returns what is wrong with it, or None."""
        tree = _parse(raw)
        if isinstance(tree, str):
            return tree
        if tree["index"] != len(self.lines):
            return f"index is {tree['index']!r} where {len(self.lines)} is due (a line was removed, added or moved)"
        if (tree["kind"] == "header") != (not self.lines):
            return "the first line, and only the first, is the header"
        if tree["previous"] != self.previous:
            return (
                "the hash of the line before does not match (that line was changed, or this one comes from elsewhere)"
            )
        kind, body = tree["kind"], tree["body"]
        if what := fault_in_body(kind, body) or self._signature_fault(tree) or self.order.fault(kind, body):
            return what
        self.previous = hashlib.sha256(raw).hexdigest()
        self.lines.append(LedgerLine(tree["index"], tree["kind"], tree["body"], self.previous))
        return None

    def _signature_fault(self, tree: dict[str, Any]) -> str | None:
        if self.key is None:
            declared = tree["body"]["public_key"]
            if self.public_key is not None and declared != self.public_key:
                return "public_key is not the expected one (signed by another party, or signed again)"
            try:
                self.key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(declared))
            except ValueError:
                return "public_key is not an ed25519 key"
        unsigned = {name: value for name, value in tree.items() if name != "signature"}
        try:
            self.key.verify(bytes.fromhex(tree["signature"]), rfc8785.dumps(unsigned))
        except InvalidSignature:
            return "the signature does not hold (the line was changed, or signed with another key)"
        return None


def public_key_of(text: str) -> str:
    """A public key as a person gives it, in the form of a header.

    Raises:
        MmfedError: not 64 hex digits.
    """
    plain = text.strip().lower()
    if not _is_hex(plain, 64):
        raise MmfedError(
            ExitCode.AUDIT, "--key: not an ed25519 public key.", "give the 64 hex digits of public_key in its header."
        )
    return plain


def read_ledger(path: Path, *, public_key: str | None = None) -> Reading:
    """Verify a ledger line by line, stopping at the first fault.

    Args:
        path: the ledger file.
        public_key: hex ed25519 key that must have signed; None takes the one the header declares.

    Raises:
        MmfedError: the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MmfedError(
            ExitCode.AUDIT, f"{path}: the ledger cannot be read ({error.strerror}).", "give the path of a ledger file."
        ) from error
    *complete, rest = data.split(b"\n")
    chain, end = _Chain(public_key), 0
    for number, raw in enumerate(complete, start=1):
        if what := chain.add(raw):
            return Reading(tuple(chain.lines), Fault(number, what), end)
        end += len(raw) + 1
    if rest and chain.lines and chain.add(rest) is None:
        return Reading(tuple(chain.lines), None, end + len(rest) + 1, torn=True, torn_complete=True)
    if not chain.lines:
        what = "incomplete line" if rest else "the file is empty; a ledger begins with its header"
        return Reading((), Fault(1, what), 0, torn=bool(rest))
    return Reading(tuple(chain.lines), None, end, torn=bool(rest))


def verify_ledger(path: Path, *, public_key: str | None = None, head: Head | None = None) -> Reading:
    """``read_ledger``, and a torn end or a missing anchored head is a fault as well.

    Without ``head`` nobody can tell a ledger cut at a line's end, or an old copy, from a whole one.
    """
    reading = read_ledger(path, public_key=public_key)
    if reading.fault is not None:
        return reading
    lines = reading.lines
    fault = None
    if reading.torn:
        number = len(lines) + (0 if reading.torn_complete else 1)
        fault = Fault(number, "incomplete line (cut, or a crash while writing; resuming the run repairs the latter)")
    elif head is not None and head.index >= len(lines):
        fault = Fault(
            len(lines),
            f"the ledger ends at index {len(lines) - 1}, its anchored head is {head.index} "
            "(it was cut, or this is an old copy)",
        )
    elif head is not None and lines[head.index].hash != head.hash:
        fault = Fault(head.index + 1, "differs from the anchored head (history was rewritten)")
    return Reading(lines, fault, reading.end, reading.torn, reading.torn_complete)


def _parse(raw: bytes) -> dict[str, Any] | str:
    """The line as a tree with exactly the five keys, or what is wrong with it."""
    if len(raw) > _LONGEST_LINE:
        return f"longer than {_LONGEST_LINE} bytes"
    try:
        tree = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
        canonical = rfc8785.dumps(tree)
    except (ValueError, RecursionError, OverflowError):
        return "not valid JSON (RFC 8785 allows no NaN, no infinity, no integer beyond 2^53)"
    if not isinstance(tree, dict) or set(tree) != _KEYS:
        return f"not an object with exactly the keys {', '.join(sorted(_KEYS))}"
    if canonical != raw:
        return "not in canonical form (RFC 8785)"
    checks: tuple[tuple[str, Callable[[Any], bool]], ...] = (
        ("index", lambda v: isinstance(v, int) and not isinstance(v, bool)),
        ("kind", lambda v: v in ("header", "release", "refusal")),
        ("body", lambda v: isinstance(v, dict)),
        ("previous", lambda v: _is_hex(v, 64)),
        ("signature", lambda v: _is_hex(v, 128)),
    )
    wrong = next((name for name, holds in checks if not holds(tree[name])), None)
    return tree if wrong is None else f"{wrong} is malformed"


def _is_hex(value: object, length: int) -> bool:
    return isinstance(value, str) and len(value) == length and not set(value) - _HEX


def _no_constant(name: str) -> Any:
    raise ValueError(name)
