"""What an audit found of each ledger, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmfed.cli.terminal import say

if TYPE_CHECKING:
    from mmfed.privacy.audit.ledgers import AuditResult, LedgerAudit

DEVICES_SHOWN = 3


def say_ledgers(result: AuditResult) -> None:
    """One paragraph a ledger; many device ledgers as one, with the worst first."""
    devices = [one for one in result.ledgers if one.path.parent.name == "ledgers"]
    if len(devices) <= DEVICES_SHOWN:
        devices = []
    for one in result.ledgers:
        if one not in devices:
            _say_verdict(one)
            _say_remarks(one)
    if not devices:
        return
    # What does not hold comes first: its figures cannot be believed.
    worst = sorted(devices, key=lambda one: (one.holds, -max(one.recomputed or 0.0, one.claimed or 0.0)))
    say(
        f"{len(devices)} device ledgers: {sum(one.holds for one in devices)} hold; "
        f"{sum(one.releases for one in devices):,} releases, {sum(one.refusals for one in devices):,} refusals. "
        f"The worst {DEVICES_SHOWN}:"
    )
    for one in worst[:DEVICES_SHOWN]:
        _say_verdict(one)
    _say_remarks(worst[0])


def _say_verdict(one: LedgerAudit) -> None:
    verdict = "holds" if one.holds else "DOES NOT HOLD"
    lines = 0 if one.head is None else one.head.index + 1
    say(f"{one.path}: {verdict}; {lines} good lines, {one.releases} releases, {one.refusals} refusals.")
    if one.recomputed is not None and one.claimed is not None:
        unit = one.header["unit"]
        say(f"  claimed epsilon {one.claimed:.4f}, recomputed {one.recomputed:.4f}, unit: {unit}")
        if len(one.epsilon_by_line) > 1:
            say("  by line: " + ", ".join(f"{name} {value:.4f}" for name, value in one.epsilon_by_line.items()))
    elif one.header:
        say("  no release, epsilon 0")


def _say_remarks(one: LedgerAudit) -> None:
    """The promise in full, and what the audit could not see."""
    header = one.header
    if header:
        say(
            f"  delta {header['delta']:.3g} ({header['delta_reason']}); adjacency: {header['adjacency']}; "
            f"trust: {header['trust']}; noise: {header['noise_source']}."
        )
    if not one.key_pinned:
        say("  The public key is the one the ledger itself declares; give --key to pin it.")
    if not one.anchored:
        say("  A cut at its end, or an old copy, shows only against a head kept elsewhere (--head).")
