"""The report of an audit, for a data-protection officer: one HTML page, the same as JSON, and one CSV row a ledger."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmfed import __version__
from mmfed.privacy.audit.canaries import NO_EVIDENCE
from mmfed.privacy.audit.ledgers import AuditResult, Finding, LedgerAudit
from mmfed.privacy.audit.outcome import outcome_csv, outcome_tree, risk_of, spent_groups, worst_first
from mmfed.privacy.audit.risk import FALSE_POSITIVE_RATES, PRIORS, AttackRisk, percent, sentences
from mmfed.records import sha256_file, write_text
from mmfed.reports.audit_words import assumptions, ledger_words, unseen
from mmfed.reports.charts import Mark, Series, line_chart, shorten
from mmfed.reports.page import drawing, render
from mmfed.reports.run_facts import device_curves, mapping, mappings
from mmfed.reports.tables import number

PAGE, TREE, ROWS = "audit.html", "audit.json", "audit.csv"
_MOST_FILES, _MOST_FAULTS, _MOST_GROUPS = 30, 50, 40


def write_audit_report(
    folder: Path,
    result: AuditResult,
    *,
    commands: Sequence[str],
    remarks: Sequence[str] = (),
    groups: Mapping[str, str] | None = None,
    empirical: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write ``audit.html``, ``audit.json`` and ``audit.csv`` into a folder.

    Args:
        commands: that repeat the audit.
        remarks: of the cross-check.
        groups: group by device; see ``outcome.spent_groups``.
        empirical: what attacks found (``empirical.json`` of a run); None where none was tried.

    Raises:
        MmfedError: a file cannot be written.
    """
    tree = outcome_tree(result, remarks=remarks, groups=groups, empirical=empirical)
    page = audit_page(result, commands=commands, remarks=remarks, groups=groups, empirical=empirical)
    write_text(folder / PAGE, page)
    write_text(folder / TREE, json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(folder / ROWS, outcome_csv(result))
    return [folder / name for name in (PAGE, TREE, ROWS)]


def audit_page(
    result: AuditResult,
    *,
    commands: Sequence[str],
    remarks: Sequence[str] = (),
    groups: Mapping[str, str] | None = None,
    empirical: Mapping[str, Any] | None = None,
) -> str:
    """The page as text."""
    runs: dict[str, list[LedgerAudit]] = defaultdict(list)
    for one in result.ledgers:
        runs[one.run_id or one.path.name].append(one)
    faulty = {finding.path for finding in result.findings}
    refuted = empirical is not None and empirical.get("holds") is False
    return render(
        "audit.html.j2",
        holds=result.holds and not refuted,
        verdict=_verdict(result, refuted=refuted),
        faults=[_fault(one) for one in result.findings[:_MOST_FAULTS]],
        more_faults=max(0, len(result.findings) - _MOST_FAULTS),
        runs=[_run(name, members, groups, faulty) for name, members in sorted(runs.items())],
        unseen=unseen(result.ledgers),
        remarks=[shorten(one, 300) for one in remarks],
        empirical=_empirical(empirical),
        no_evidence=NO_EVIDENCE,
        commands=list(commands),
        files=[_file(one) for one in worst_first(result.ledgers)[:_MOST_FILES]],
        more_files=max(0, len(result.ledgers) - _MOST_FILES),
        version=f" {__version__}",
    )


def _verdict(result: AuditResult, *, refuted: bool) -> str:
    count = len(result.ledgers)
    if refuted and result.holds:
        return "THIS AUDIT FAILS: an attack or a check of the code breaks the promise, whatever the ledgers say."
    if not count:
        return "There is no ledger: nothing is promised, and nothing was audited."
    if result.holds:
        what = "The ledger holds" if count == 1 else f"All {count} ledgers hold"
        return f"{what}: unchanged since signed, complete as far as can be seen, and ε recomputed from every charge."
    bad = len({finding.path for finding in result.findings})
    faults = "1 fault" if len(result.findings) == 1 else f"{len(result.findings)} faults"
    return f"THIS AUDIT FAILS: {faults} in {bad} of {count} files. Believe no ε on this page."


def _fault(finding: Finding) -> dict[str, str]:
    where = "" if finding.line is None else str(finding.line)
    return {"path": shorten(str(finding.path), 160), "line": where, "what": shorten(finding.what, 400)}


def _run(name: str, members: list[LedgerAudit], groups: Mapping[str, str] | None, faulty: set[Path]) -> dict[str, Any]:
    readable = [one for one in worst_first(members) if one.header]
    if not readable:
        return {"name": shorten(name, 100), "words": None}
    worst = max(readable, key=lambda one: one.recomputed or 0.0)
    risk = risk_of(worst) if worst.holds else None
    parted = spent_groups(members, groups)[:_MOST_GROUPS]
    own = [] if worst.recomputed is None else [(float(worst.header["delta"]), worst.recomputed)]
    return {
        "name": shorten(name, 100),
        "holds": not faulty & {one.path for one in members},
        "words": ledger_words(worst),
        "cards": _cards(worst, members),
        "chart": drawing(_chart(members, worst)),
        "lines": list(worst.epsilon_by_line.items()) if len(worst.epsilon_by_line) > 1 else [],
        "groups": [asdict(one) | {"left": _left(one.left)} for one in parted],
        "at": sorted({*own, *worst.epsilon_at.items()}, reverse=True),
        "mu": worst.mu if worst.releases else None,
        "risk": None if risk is None else _risk(risk),
        "risk_words": [] if risk is None else sentences(risk),
        "assumptions": assumptions(members),
    }


def _cards(worst: LedgerAudit, members: Sequence[LedgerAudit]) -> list[tuple[str, str, str]]:
    """Name, value and remark of every key figure."""
    target = worst.header.get("target_epsilon")
    whose = "worst device" if worst.of_device else "coordinator's account"
    spent = worst.recomputed or 0.0
    share = f"{spent / target:.0%} of the budget" if target else "no budget was set"
    return [
        ("ε spent", f"{spent:.4g}", f"{whose}, recomputed; {share}"),
        (
            "ε left",
            _left(worst.left),
            "no target" if target is None else f"of {target:g}",
        ),
        ("δ", f"{worst.header['delta']:.3g}", str(worst.header["delta_reason"])),
        ("Releases", f"{sum(one.releases for one in members)}", "charges in these ledgers"),
        ("Refusals", f"{sum(one.refusals for one in members)}", "releases the budget did not allow"),
    ]


def _left(value: float | None) -> str:
    """Rounded downwards: nobody may spend what rounding added."""
    return "–" if value is None else f"{math.floor(value * 1000) / 1000:g}"


def _chart(members: Sequence[LedgerAudit], worst: LedgerAudit) -> str:
    series = []
    for one in members:
        if not one.of_device and (points := _points(one)):
            series.append(Series("coordinator" if not series else f"coordinator, {one.path.name}", points))
    devices = [points for one in members if one.of_device and (points := _points(one))]
    if len(devices) == 1:
        series.append(Series("device", devices[0]))
    elif devices:
        series += [Series(one.name, one.points, one.name.startswith("median")) for one in device_curves(devices)]
    target = worst.header.get("target_epsilon")
    return line_chart(
        series,
        title="Privacy spent against rounds",
        x_label="round",
        y_label="ε spent so far",
        marks=[] if target is None else [Mark(f"budget ε = {target:g}", y=float(target))],
    )


def _points(ledger: LedgerAudit) -> list[tuple[float, float]]:
    spent: dict[float, float] = {}
    for line in ledger.charges():
        round_ = float(line.body["round"])
        spent[round_] = max(spent.get(round_, 0.0), float(line.body["epsilon"]))
    return sorted(spent.items())


def _risk(risk: AttackRisk) -> list[tuple[str, str, str]]:
    """Question, guessing, and the most any attack can reach."""
    rows = [
        (f"Members found when {_share(rate)} of the others are accused wrongly", _share(rate), percent(found))
        for rate, found in ((rate, risk.true_positive_rate[rate]) for rate in FALSE_POSITIVE_RATES)
    ]
    rows.append(("Advantage over guessing (TPR minus FPR)", _share(0.0), percent(risk.advantage)))
    rows.append(("Area under the ROC curve (AUC)", "0.500", f"{risk.area:.3f}"))
    rows += [
        (
            f"Belief that somebody took part, {_share(prior)} before",
            _share(prior),
            percent(risk.posterior[prior]),
        )
        for prior in PRIORS
    ]
    return rows


def _share(share: float) -> str:
    return f"{100 * share:g}\N{NO-BREAK SPACE}%"


def _empirical(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    attacks = [
        {
            "name": shorten(str(one.get("name", "")), 60),
            "what": shorten(str(one.get("what", "")), 300),
            "figure": shorten(str(one.get("figure", "AUC")), 40),
            "value": _decimal(one.get("value")),
            "interval": _interval(one),
            "chance": _decimal(one.get("chance")),
            "limit": _decimal(one.get("limit")),
            "holds": one.get("holds"),
        }
        for one in mappings(found.get("attacks"))
    ]
    checks = [
        {"name": shorten(str(one.get("name", "")), 80), "what": shorten(str(one.get("what", "")), 400),
         "holds": bool(one.get("holds"))}
        for one in mappings(found.get("checks"))
    ]  # fmt: skip
    canary = mapping(found.get("canary"))
    return {"attacks": attacks, "checks": checks, "canary": shorten(str(canary.get("sentence", "")), 700),
            "about": shorten(str(found.get("about", "")), 400)}  # fmt: skip


def _decimal(value: Any) -> str:
    known = number(value)
    return "–" if known is None else f"{known:.3f}"


def _interval(one: Mapping[str, Any]) -> str:
    low, high = number(one.get("low")), number(one.get("high"))
    return "" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"


def _file(one: LedgerAudit) -> dict[str, str]:
    header = one.header
    try:
        digest = sha256_file(one.path)
    except OSError:
        digest = "cannot be read any more"
    return {
        "path": shorten(str(one.path), 200),
        "holds": "holds" if one.holds else "DOES NOT HOLD",
        "claimed": "–" if one.claimed is None else f"{one.claimed:.4f}",
        "recomputed": "–" if one.recomputed is None else f"{one.recomputed:.4f}",
        "key": str(header.get("public_key", "")) + (" (pinned)" if one.key_pinned else ""),
        "head": ""
        if one.head is None
        else f"{one.head.index}: {one.head.hash}" + (" (anchored)" if one.anchored else ""),
        "digest": digest,
    }
