"""The audit of a run folder: which ledgers it must have, and whether every recorded round was charged in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from mmfed.config import Config
from mmfed.privacy.audit.ledgers import AuditResult, Finding, audit_ledgers
from mmfed.privacy.audit.verify import Head
from mmfed.records import RunFolder, read_lines


def run_ledgers(run: RunFolder) -> list[Path]:
    """The coordinator's ledger, if there is one, then those of the simulated devices, sorted."""
    own = [run.ledger] if run.ledger.exists() else []
    return [*own, *sorted(run.devices.glob("*/*/ledgers/*.jsonl"))]


def audit_each(
    paths: list[Path],
    keys: Mapping[Path, str] | None = None,
    heads: Mapping[Path, Head] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AuditResult:
    """``audit_ledgers`` one file at a time, so that progress can be told.

    Raises:
        MmfedError: a file cannot be read.
    """
    ledgers, findings = [], []
    for number, path in enumerate(paths, start=1):
        found = audit_ledgers([path], keys, heads)
        ledgers.extend(found.ledgers)
        findings.extend(found.findings)
        if progress is not None:
            progress(number, len(paths))
    return AuditResult(tuple(ledgers), tuple(findings))


def against_rounds(run: RunFolder, config: Config, audit: AuditResult) -> AuditResult:
    """The audit with a finding where the run recorded rounds that no ledger charges: a ledger is missing, or was cut.

    User-central: every recorded round has a release at the coordinator. Record: as every update that reached a sum
    was charged on its device, there are at least as many releases as updates.
    """
    records = read_lines(run.metrics)
    findings = list(audit.findings)
    if config.privacy.mode == "user-central" and records:
        own = next((one for one in audit.ledgers if one.path == run.ledger), None)
        rounds = len(records)
        if own is None:
            findings.append(Finding(run.ledger, None, f"no such ledger, though the run recorded {rounds} rounds"))
        elif own.holds and own.releases < rounds:
            what = f"{own.releases} releases, though the run recorded {rounds} rounds (it was cut, or is an old copy)"
            findings.append(Finding(run.ledger, None, what))
    if config.privacy.mode == "record":
        updates = sum(int(record["realised"]) for record in records)
        devices = [one for one in audit.ledgers if run.devices in one.path.parents]
        releases = sum(one.releases for one in devices)
        if releases < updates and all(one.holds for one in devices):
            what = f"{releases} releases in all device ledgers, though the run summed {updates} updates"
            findings.append(Finding(run.devices, None, what))
    return replace(audit, findings=tuple(findings))
