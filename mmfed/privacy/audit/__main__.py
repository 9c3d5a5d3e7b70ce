"""``python -m mmfed.privacy.audit LEDGER...``: the audit of ledger files for whoever installs nothing else.

Needs numpy, scipy, cryptography and rfc8785; neither torch nor flwr, nor anything of mmfed beyond this folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.audit.crosscheck import cross_check
from mmfed.privacy.audit.ledgers import AuditResult, LedgerAudit, audit_ledgers
from mmfed.privacy.audit.outcome import outcome_csv, outcome_tree, read_groups, worst_first
from mmfed.privacy.audit.verify import Head, public_key_of
from mmfed.records import write_json, write_text

_SHOWN = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit and give the exit code: 0 where everything holds, 9 where not, 2 for a wrong call."""
    given = _parser().parse_args(arguments)
    try:
        return _audit(given)
    except MmfedError as fault:
        sys.stderr.write(f"error: {fault.message}\n  {fault.fix}\n")
        return int(fault.code)


def _audit(given: argparse.Namespace) -> int:
    paths = [Path(name) for name in given.ledgers]
    if (given.key or given.head) and len(paths) != 1:
        raise MmfedError(ExitCode.AUDIT, "--key and --head concern one ledger.", "name one ledger file.")
    keys = {} if given.key is None else {paths[0]: public_key_of(given.key)}
    heads = {} if given.head is None else {paths[0]: Head.load(given.head)}
    found = audit_ledgers(paths, keys, heads, thorough=given.thorough)
    crossed = cross_check(found.ledgers)
    result = AuditResult(found.ledgers, (*found.findings, *crossed.findings))
    if given.json is not None or given.stdout == "json":
        groups = None if given.groups is None else read_groups(given.groups)
        tree = outcome_tree(result, remarks=crossed.remarks, groups=groups)
        if given.json is not None:
            write_json(given.json, tree)
        if given.stdout == "json":
            sys.stdout.write(json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    if given.csv is not None:
        write_text(given.csv, outcome_csv(result))
    if given.stdout == "text":
        sys.stdout.write("\n".join(_text(result, crossed.remarks)) + "\n")
    return int(ExitCode.OK if result.holds else ExitCode.AUDIT)


def _text(result: AuditResult, remarks: Sequence[str]) -> list[str]:
    lines = []
    shown = worst_first(result.ledgers)[:_SHOWN]
    for one in shown:
        lines += _ledger(one)
    if len(result.ledgers) > len(shown):
        lines.append(
            f"... and {len(result.ledgers) - len(shown)} more ledgers with smaller epsilon, in --json and --csv"
        )
    lines += [f"note: {remark}" for remark in remarks]
    lines += [f"FAULT: {finding}" for finding in result.findings[:_SHOWN]]
    if len(result.findings) > _SHOWN:
        lines.append(f"... and {len(result.findings) - _SHOWN} more faults")
    verdict = "holds" if result.holds else "DOES NOT HOLD"
    return [*lines, f"{len(result.ledgers)} ledgers, {len(result.findings)} faults: {verdict}."]


def _ledger(one: LedgerAudit) -> list[str]:
    verdict = "holds" if one.holds else "DOES NOT HOLD"
    head = f"{one.path}: {verdict}; {one.releases} releases, {one.refusals} refusals"
    if not one.header:
        return [head]
    header = one.header
    spent = 0.0 if one.recomputed is None else one.recomputed
    claimed = 0.0 if one.claimed is None else one.claimed
    left = "" if one.left is None else f", {one.left:.4f} left of {header['target_epsilon']:g}"
    return [
        head,
        f"  epsilon recomputed {spent:.4f}, claimed {claimed:.4f}{left}; delta {header['delta']:.3g}",
        f"  unit: {header['unit']}; adjacency: {header['adjacency']}; trust: {header['trust']}",
        f"  key {'pinned' if one.key_pinned else 'as the ledger declares it'}; "
        f"end {'anchored' if one.anchored else 'not anchored: a cut would not show'}",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mmfed.privacy.audit", description="Check ledgers and recompute every epsilon."
    )
    parser.add_argument("ledgers", nargs="+", metavar="LEDGER", help="ledger files of a coordinator and of devices")
    parser.add_argument("--key", metavar="HEX", help="public key of the one ledger's party, obtained some other way")
    parser.add_argument("--head", type=Path, metavar="FILE", help="head of the one ledger that another party kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found as JSON")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write one row a ledger")
    parser.add_argument("--groups", type=Path, metavar="FILE", help="CSV with the columns device and group")
    parser.add_argument("--thorough", action="store_true", help="recompute epsilon after every release")
    parser.add_argument(
        "--format", dest="stdout", choices=("text", "json"), default="text", help="what standard output holds"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
