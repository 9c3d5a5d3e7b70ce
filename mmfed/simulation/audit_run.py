"""The audit of a run folder: which ledgers it must have, and whether every recorded round was charged in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.audit.ledgers import AuditResult, Finding
from mmfed.privacy.units import CENTRAL_MODES, DEVICE_MODES
from mmfed.records import RunFolder, read_lines, write_json

EMPIRICAL = "empirical.json"


def run_ledgers(run: RunFolder) -> list[Path]:
    """The coordinator's ledger, if there is one, then those of the simulated devices, sorted."""
    own = [run.ledger] if run.ledger.exists() else []
    return [*own, *sorted(run.devices.glob("*/*/ledgers/*.jsonl"))]


def write_empirical(run: RunFolder, tried: Mapping[str, Any]) -> None:
    """Keep what attacks found with the run (``empirical.json``)."""
    write_json(run.path / EMPIRICAL, tried)


def read_empirical(run: RunFolder) -> Mapping[str, Any] | None:
    """What attacks on the run found (``empirical.json``); None where none were tried.

    Raises:
        MmfedError: the file is there and cannot be read.
    """
    path = run.path / EMPIRICAL
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, Mapping):
        raise MmfedError(ExitCode.STORAGE, f"{path}: not what an audit wrote.", "delete it, or run --empirical again.")
    return found


def against_rounds(run: RunFolder, config: Config, audit: AuditResult) -> AuditResult:
    """The audit with a finding where the run recorded rounds that no ledger charges: a ledger is missing, or was cut.

    User-central and user-distributed: every recorded round, and the one-shot release, has a charge at the coordinator.
    User-local, record and user-ftrl: as every update that reached a sum was charged on its device, there are at least
    as many releases as updates.
    """
    records = read_lines(run.metrics)
    findings = list(audit.findings)
    if config.privacy.mode in (*CENTRAL_MODES, "user-distributed") and records:
        own = next((one for one in audit.ledgers if one.path == run.ledger), None)
        rounds = sum(int(record["round"]) > 0 for record in records)
        due = 2 * rounds if config.privacy.clipping == "adaptive" else rounds  # the quantile is a release of its own
        if own is None:
            findings.append(Finding(run.ledger, None, f"no such ledger, though the run recorded {rounds} rounds"))
        elif own.holds:
            lines = [line["body"] for line in read_lines(run.ledger) if line["kind"] == "release"]
            early = sum(int(body["round"]) == 0 and body["line"] in ("model", "statistics") for body in lines)
            if own.releases - early < due:
                what = f"{own.releases - early} releases, though the run recorded {rounds} rounds"
                findings.append(Finding(run.ledger, None, f"{what} (it was cut, or is an old copy)"))
            if config.one_shot.enabled and not early:
                what = "no release before the rounds, though the run had a one-shot release"
                findings.append(Finding(run.ledger, None, what))
    if config.privacy.mode in (*DEVICE_MODES, "user-ftrl"):
        updates = sum(int(record["realised"]) for record in records)
        devices = [one for one in audit.ledgers if run.devices in one.path.parents]
        early = sum(line.body["round"] == 0 for one in devices for line in one.charges())  # the one-shot release
        releases = sum(one.releases for one in devices) - early
        if config.one_shot.enabled and not early and records:
            what = "no release before the rounds in any device ledger, though the run had a one-shot release"
            findings.append(Finding(run.devices, None, what))
        if releases < updates and all(one.holds for one in devices):
            what = f"{releases} releases in all device ledgers, though the run summed {updates} updates"
            findings.append(Finding(run.devices, None, what))
    return replace(audit, findings=tuple(findings))
