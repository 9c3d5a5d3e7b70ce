"""The audit: ledger files and public keys in, a verdict per ledger out. Trusts nobody, imports no accountant.

A claim is compared with ``recompute.epsilon_upper_bound``. Both are upper bounds on the same ε; neither is exact:

- a claim below the recomputed value by more than 0.1 % + 1e-5 is a fault (our grid costs at most about 0.01 %);
- a claim above it by more than 1 % + 1e-3 is a fault too, unless its stated method explains it: a claim by Rényi DP may
  go up to our own Rényi bound, one on a coarse grid up to our own bound on that grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmfed.privacy.audit.recompute import Term, epsilon_upper_bound, gaussian_mu, rdp_epsilon
from mmfed.privacy.audit.verify import Head, LedgerLine, verify_ledger

DELTAS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-8)
_CHECKPOINTS = 8


@dataclass(frozen=True)
class Finding:
    """One thing that does not hold. ``line`` counts from 1 (the header); None concerns the whole file."""

    path: Path
    line: int | None
    what: str

    def __str__(self) -> str:
        where = "" if self.line is None else f": line {self.line}"
        return f"{self.path}{where}: {self.what}"


@dataclass(frozen=True, kw_only=True)
class LedgerAudit:
    """What one ledger shows, up to its first bad line.

    Args:
        path: the file.
        holds: nothing was found.
        key_pinned: the public key was given from outside; otherwise the ledger only declares it.
        anchored: a head kept by another party was compared.
        header: body of the header, empty when even that is bad.
        releases, refusals: how many.
        claimed: last claimed ε, at the header's δ; None without releases.
        recomputed: ε from the events by the second code path, at the header's δ; None without releases.
        epsilon_at: ε recomputed at several δ.
        epsilon_by_line: ε recomputed for each budget line alone, at the header's δ.
        mu: μ of Gaussian DP when nobody was sampled, else None.
        head: index and hash of the last good line.
        lines: the good lines; not part of ``to_dict``.
    """

    path: Path
    holds: bool
    key_pinned: bool
    anchored: bool
    header: Mapping[str, Any]
    releases: int
    refusals: int
    claimed: float | None
    recomputed: float | None
    epsilon_at: Mapping[float, float]
    epsilon_by_line: Mapping[str, float]
    mu: float | None
    head: Head | None
    lines: tuple[LedgerLine, ...] = field(repr=False)

    @property
    def run_id(self) -> str:
        """The run it belongs to: what a coordinator's and its devices' ledgers have in common; "" without a header."""
        return str(self.header.get("run_id", "")).partition("/")[0]

    @property
    def of_device(self) -> bool:
        """Whether a device keeps it (its run id names the device after a slash)."""
        return "/" in str(self.header.get("run_id", ""))

    @property
    def left(self) -> float | None:
        """ε that the target leaves, nats, never below 0; None without a target."""
        target = self.header.get("target_epsilon")
        return None if target is None else max(0.0, float(target) - (self.recomputed or 0.0))

    def charges(self) -> list[LedgerLine]:
        """The release lines, in order."""
        return [line for line in self.lines if line.kind == "release"]

    def epsilon_for(self, deltas: Sequence[float]) -> dict[float, float]:
        """ε recomputed at any δ in (0, 1); 0 where nothing was released."""
        terms = tuple(_terms(self.charges()))
        return {delta: _bound(terms, delta) if terms else 0.0 for delta in deltas}

    def to_dict(self) -> dict[str, Any]:
        """Plain tree for JSON."""
        plain = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "lines"}
        head = None if self.head is None else {"index": self.head.index, "hash": self.head.hash}
        at = {f"{delta:g}": value for delta, value in self.epsilon_at.items()}
        return plain | {"path": str(self.path), "epsilon_at": at, "head": head}


@dataclass(frozen=True)
class AuditResult:
    """All ledgers and everything that does not hold."""

    ledgers: tuple[LedgerAudit, ...]
    findings: tuple[Finding, ...]

    @property
    def holds(self) -> bool:
        """No finding at all."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """Plain tree for JSON."""
        findings = [{"path": str(f.path), "line": f.line, "what": f.what} for f in self.findings]
        return {"holds": self.holds, "ledgers": [one.to_dict() for one in self.ledgers], "findings": findings}


def audit_ledgers(
    paths: Sequence[Path],
    public_keys: Mapping[Path, str] | None = None,
    heads: Mapping[Path, Head] | None = None,
    *,
    thorough: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> AuditResult:
    """Check chain, signatures, fields, order and every ε of ledgers.

    Args:
        paths: ledger files.
        public_keys: hex ed25519 keys, by path, obtained from each party some other way; without one the key in the
            header is believed, and ``LedgerAudit.key_pinned`` says so.
        heads: anchored heads by path; without one a ledger cut at a line's end looks whole.
        thorough: recompute ε after every release; otherwise after the first, the last and a few between. Claims
            never fall by more than that tolerance (checked), so the others lie between.
        progress: told (files done, files in all).

    Raises:
        MmfedError: a file cannot be read.
    """
    ledgers, findings = [], []
    for number, path in enumerate(paths, start=1):
        ledger, found = _audit_one(path, (public_keys or {}).get(path), (heads or {}).get(path), thorough=thorough)
        ledgers.append(ledger)
        findings.extend(found)
        if progress is not None:
            progress(number, len(paths))
    return AuditResult(tuple(ledgers), tuple(findings))


def _audit_one(path: Path, key: str | None, head: Head | None, *, thorough: bool) -> tuple[LedgerAudit, list[Finding]]:
    reading = verify_ledger(path, public_key=key, head=head)
    lines = reading.lines
    findings = [] if reading.fault is None else [Finding(path, reading.fault.line, reading.fault.what)]
    header = lines[0].body if lines else {}
    releases = [line for line in lines if line.kind == "release"]
    terms = _terms(releases)
    recomputed = mu = None
    at: dict[float, float] = {}
    by_line: dict[str, float] = {}
    if releases:
        delta = float(header["delta"])
        recomputed = _bound(tuple(terms), delta)
        findings.extend(_claims(path, releases, delta, recomputed, thorough=thorough))
        findings.extend(_target(path, header, releases[-1], recomputed))
        at = {other: _bound(tuple(terms), other) for other in DELTAS if other < 1 / header["population"]}
        names = sorted({str(line.body["line"]) for line in releases})
        for name in names:
            alone = [_term(line.body) for line in releases if line.body["line"] == name]
            by_line[name] = recomputed if len(names) == 1 else _bound(tuple(alone), delta)
        mu = gaussian_mu(terms)
    ledger = LedgerAudit(
        path=path,
        holds=not findings,
        key_pinned=key is not None,
        anchored=head is not None,
        header=header,
        releases=len(releases),
        refusals=sum(line.kind == "refusal" for line in lines),
        claimed=float(releases[-1].body["epsilon"]) if releases else None,
        recomputed=recomputed,
        epsilon_at=at,
        epsilon_by_line=by_line,
        mu=mu,
        head=Head(lines[-1].index, lines[-1].hash) if lines else None,
        lines=tuple(lines),
    )
    return ledger, findings


def _claims(path: Path, releases: list[LedgerLine], delta: float, last: float, *, thorough: bool) -> list[Finding]:
    count = len(releases)
    chosen = (
        range(count) if thorough else sorted({0, count - 1, *(count * k // _CHECKPOINTS for k in range(_CHECKPOINTS))})
    )
    findings = []
    for position in chosen:
        body = releases[position].body
        so_far = _terms(releases[: position + 1])
        value = last if position == count - 1 else _bound(tuple(so_far), delta)
        claim = float(body["epsilon"])
        limit = value * 1.01 + 1e-3
        if claim > limit:
            limit = _loosest(body, so_far, delta) * 1.01 + 1e-3
        if claim < value * (1 - 1e-3) - 1e-5 or claim > limit:
            what = f"claims epsilon {claim:.6g} after this release, recomputed {value:.6g} at delta {delta:.3g}"
            findings.append(Finding(path, releases[position].index + 1, what))
    return findings


def _loosest(body: Mapping[str, Any], terms: list[Term], delta: float) -> float:
    """Our own value by the method, or on the grid, that the claim says it was made with."""
    if body["epsilon_method"] == "rdp":
        return rdp_epsilon(terms, delta)
    return _bound(tuple(terms), delta, float(body["epsilon_discretisation"]))


def _target(path: Path, header: Mapping[str, Any], last: LedgerLine, recomputed: float) -> list[Finding]:
    target = header["target_epsilon"]
    if target is None or recomputed <= target * (1 + 1e-3) + 1e-5:
        return []
    return [Finding(path, last.index + 1, f"epsilon {recomputed:.6g} exceeds the target {target:g} of the header")]


def _terms(releases: Sequence[LedgerLine]) -> list[Term]:
    """What was released; a statistic of the same sample as another release is one Gaussian with it."""
    found: dict[int, Term] = {}
    for line in releases:
        if line.body["steps"] == 0:
            continue
        term, index = _term(line.body), line.body.get("shares_sample_with")
        if index in found:
            sigma = (term.sigma**-2 + found.pop(index).sigma ** -2) ** -0.5
            term = replace(term, sigma=sigma)
        found[line.index] = term
    return list(found.values())


def _term(body: Mapping[str, Any]) -> Term:
    if body["mechanism"] == "skellam":
        norms = int(body["l2_squared"]), int(body["l1"])
        return Term(float(body["noise_multiplier"]), float(body["sampling_rate"]), int(body["steps"]), False, *norms)
    relative = float(body["noise_multiplier"]) / float(body.get("sensitivity", 1.0))
    if body["mechanism"] == "banded":  # one participation moves a column of the factor
        relative /= math.hypot(*body["banded"]["coefficients"])
    return Term(relative, float(body["sampling_rate"]), int(body["steps"]), pure=body["mechanism"] == "laplace")


@lru_cache(maxsize=4096)
def _bound(terms: tuple[Term, ...], delta: float, grid: float = 0.0) -> float:
    """``epsilon_upper_bound``, computed once for the many devices of a run that did the same."""
    return epsilon_upper_bound(terms, delta, grid=grid)
