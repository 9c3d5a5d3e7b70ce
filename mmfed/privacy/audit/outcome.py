"""An audit as plain data: the JSON tree, the CSV rows and groups of ledgers that a report shows."""

from __future__ import annotations

import csv
import io
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.audit.ledgers import AuditResult, LedgerAudit
from mmfed.privacy.audit.risk import AttackRisk, attack_risk, deltas_for

COLUMNS = (
    "path", "run_id", "party", "mode", "unit", "population", "delta", "target_epsilon", "claimed_epsilon",
    "recomputed_epsilon", "epsilon_left", "mu", "releases", "refusals", "holds", "key_pinned", "anchored",
    "public_key", "head_index", "head_hash", "first_fault",
)  # fmt: skip
_SPREADSHEET_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, kw_only=True)
class SpentGroup:
    """What the ledgers of one group of people have spent.

    Args:
        name: of the group.
        ledgers: how many.
        worst, median: recomputed ε at each ledger's own δ, nats.
        left: of the worst one, None without a target.
        releases: smallest and largest number in one ledger.
        refusals: in all.
    """

    name: str
    ledgers: int
    worst: float
    median: float
    left: float | None
    releases: tuple[int, int]
    refusals: int


def worst_first(ledgers: Sequence[LedgerAudit]) -> list[LedgerAudit]:
    """Those that do not hold first (their figures cannot be believed), then by ε, largest first."""
    return sorted(ledgers, key=lambda one: (one.holds, -max(one.recomputed or 0.0, one.claimed or 0.0)))


def risk_of(ledger: LedgerAudit) -> AttackRisk:
    """The bounds on attacks that everything charged in a ledger gives."""
    delta = float(ledger.header["delta"])
    exact = ledger.mu if ledger.mu is not None and ledger.lines else None
    return attack_risk(ledger.epsilon_for(deltas_for(delta)), failure=delta, mu=exact)


def spent_groups(ledgers: Sequence[LedgerAudit], groups: Mapping[str, str] | None = None) -> list[SpentGroup]:
    """Ledgers by group, the largest worst ε first.

    Args:
        groups: group by device name (the part of the run id after the slash, or the file's name without its ending);
            None: coordinators, and devices by how often they took part.
    """
    members: dict[str, list[LedgerAudit]] = defaultdict(list)
    for one in ledgers:
        if one.header:
            members[_group(one, groups)].append(one)
    found = []
    for name, same in members.items():
        spent = [one.recomputed or 0.0 for one in same]
        worst = max(same, key=lambda one: one.recomputed or 0.0)
        counts = [one.releases for one in same]
        found.append(
            SpentGroup(
                name=name,
                ledgers=len(same),
                worst=max(spent),
                median=statistics.median(spent),
                left=worst.left,
                releases=(min(counts), max(counts)),
                refusals=sum(one.refusals for one in same),
            )
        )
    return sorted(found, key=lambda one: -one.worst)


def _group(ledger: LedgerAudit, groups: Mapping[str, str] | None) -> str:
    if not ledger.of_device:
        return f"all {ledger.header['population']} enrolled (coordinator's account)"
    if groups is not None:
        name = str(ledger.header["run_id"]).partition("/")[2]
        return groups.get(name) or groups.get(ledger.path.stem) or "no group given"
    count = ledger.releases
    if count <= 1:
        return f"devices with {count} releases" if count == 0 else "devices with 1 release"
    low = 1 << (count.bit_length() - 1)
    return f"devices with {low} to {2 * low - 1} releases"


def read_groups(path: Path) -> dict[str, str]:
    """Group by device from a CSV file with the columns ``device`` and ``group``.

    Raises:
        MmfedError: the file cannot be read, or lacks a column.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {row["device"].strip(): row["group"].strip() for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a CSV file with the columns device and group"
        raise MmfedError(ExitCode.AUDIT, f"{path}: {reason}.", "write one line a device: device,group.") from None


def outcome_tree(
    result: AuditResult,
    *,
    remarks: Sequence[str] = (),
    groups: Mapping[str, str] | None = None,
    empirical: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything the audit found as a plain tree for JSON; the worst ledger with its bounds on attacks."""
    worst = next((one for one in worst_first(result.ledgers) if one.holds and one.releases), None)
    risk = None if worst is None else _risk_tree(worst)
    return {
        **result.to_dict(),
        "remarks": list(remarks),
        "groups": [asdict(one) for one in spent_groups(result.ledgers, groups)],
        "attack_risk": risk,
        "empirical": empirical,
    }


def _risk_tree(worst: LedgerAudit) -> dict[str, Any]:
    plain = asdict(risk_of(worst))
    for name in ("true_positive_rate", "posterior"):
        plain[name] = {f"{key:g}": value for key, value in plain[name].items()}
    return {"ledger": str(worst.path), **plain}


def outcome_csv(result: AuditResult) -> str:
    """One row a ledger, columns ``COLUMNS``; text that a spreadsheet would run as a formula is quoted with an '."""
    first: dict[Path, str] = {}
    for finding in result.findings:
        where = "" if finding.line is None else f"line {finding.line}: "
        first.setdefault(finding.path, f"{where}{finding.what}")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in result.ledgers:
        header, head = one.header, one.head
        row = (
            str(one.path), header.get("run_id"), "device" if one.of_device else "coordinator", header.get("mode"),
            header.get("unit"), header.get("population"), header.get("delta"), header.get("target_epsilon"),
            one.claimed, one.recomputed, one.left, one.mu, one.releases, one.refusals, one.holds, one.key_pinned,
            one.anchored,
            header.get("public_key"), None if head is None else head.index, None if head is None else head.hash,
            first.get(one.path),
        )  # fmt: skip
        writer.writerow([_cell(value) for value in row])
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, str):
        return str(value)
    return f"'{value}" if value.startswith(_SPREADSHEET_FORMULA) else value
