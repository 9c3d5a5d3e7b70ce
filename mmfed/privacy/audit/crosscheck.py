"""Ledgers of one run held against one another: what one party wrote must fit what the others wrote.

Nothing here knows a mechanism: it compares run ids, header fields, rounds, counts and parameters, so the lines of a new
mechanism are compared as they are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mmfed.privacy.audit.ledgers import Finding, LedgerAudit
from mmfed.privacy.audit.verify import LedgerLine

_SAME_PROMISE = ("unit", "adjacency", "population", "delta")
_SAME_RELEASE = ("mechanism", "clip_norm", "noise_multiplier", "sampling", "sampling_rate", "steps")
_MOST_REMARKS = 20


@dataclass(frozen=True)
class CrossCheck:
    """What does not fit, and what the ledgers at hand leave open."""

    findings: tuple[Finding, ...]
    remarks: tuple[str, ...]


def cross_check(ledgers: Sequence[LedgerAudit]) -> CrossCheck:
    """Compare the ledgers of each run; those that do not hold by themselves are left out.

    A finding: two histories of one ledger; other promises or parameters in one run; a device that charged a round the
    coordinator did not; a coordinator that counts fewer users than devices charged, or (with every device's ledger at
    hand) more; more devices, or a larger cohort, than are enrolled. A remark: a device without its coordinator's
    ledger; a device one round ahead, which a run killed in that round leaves as well.
    """
    runs: dict[str, list[LedgerAudit]] = defaultdict(list)
    for ledger in ledgers:
        if ledger.holds and ledger.header:
            runs[ledger.run_id].append(ledger)
    findings: list[Finding] = []
    remarks: list[str] = []
    for run_id, members in sorted(runs.items()):
        members = _one_copy_each(members, findings, remarks)
        coordinators = [one for one in members if not one.of_device]
        devices = [one for one in members if one.of_device]
        findings += _promises(members)
        findings += _parameters(devices, coordinators)
        for coordinator in coordinators:
            findings += _enrolled(coordinator)
            _rounds(coordinator, devices, findings, remarks)
        if devices:
            findings += _device_counts(devices)
        if devices and not coordinators and devices[0].header["mode"] in {one.header["mode"] for one in _lone(runs)}:
            remarks.append(
                f"run {run_id}: {len(devices)} device ledgers, and no ledger of their coordinator among these"
            )
    return CrossCheck(tuple(findings), tuple(remarks[:_MOST_REMARKS]))


def _lone(runs: dict[str, list[LedgerAudit]]) -> Iterable[LedgerAudit]:
    """Coordinators' ledgers of any run: where a mode has them, a run without one is worth a remark."""
    return (one for members in runs.values() for one in members if not one.of_device)


def _one_copy_each(members: list[LedgerAudit], findings: list[Finding], remarks: list[str]) -> list[LedgerAudit]:
    """The longest copy of every ledger; copies that part ways are two histories."""
    copies: dict[str, list[LedgerAudit]] = defaultdict(list)
    for one in members:
        copies[str(one.header["run_id"])].append(one)
    kept = []
    for name, same in copies.items():
        longest = max(same, key=lambda one: len(one.lines))
        kept.append(longest)
        for other in same:
            if other is longest:
                continue
            parts = next(
                (row for row, (a, b) in enumerate(zip(other.lines, longest.lines, strict=False)) if a.hash != b.hash),
                None,
            )
            if parts is None:
                remarks.append(f"{other.path}: an earlier copy of {longest.path}, or the same")
            else:
                what = f"two histories of {name[:80]!r}: from here on this line and that of {longest.path} differ"
                findings.append(Finding(other.path, parts + 1, what))
    return kept


def _promises(members: Sequence[LedgerAudit]) -> list[Finding]:
    """Header fields that every ledger of a run in one mode must share."""
    findings = []
    by_mode: dict[str, list[LedgerAudit]] = defaultdict(list)
    for one in members:
        by_mode[str(one.header["mode"])].append(one)
    for same in by_mode.values():
        for name in _SAME_PROMISE:
            usual = _usual(one.header.get(name) for one in same)
            findings += [
                Finding(
                    one.path, 1, f"{name} is {_shown(one.header.get(name))}, in the run's other ledgers {_shown(usual)}"
                )
                for one in same
                if one.header.get(name) != usual
            ]
    return findings


def _parameters(devices: Sequence[LedgerAudit], coordinators: Sequence[LedgerAudit]) -> list[Finding]:
    """Parameters of a round that all parties of one mechanism must share."""
    rows: dict[tuple[Any, ...], list[tuple[LedgerAudit, LedgerLine]]] = defaultdict(list)
    for ledger in [*coordinators, *devices]:
        last = {(line.body["round"], line.body["line"], line.body["mechanism"]): line for line in ledger.charges()}
        for place, line in last.items():  # a round repeated after a crash is charged twice
            rows[place].append((ledger, line))
    findings = []
    for (number, _, _), same in rows.items():
        for name in _SAME_RELEASE:
            usual = _usual(line.body.get(name) for _, line in same)
            findings += [
                Finding(
                    ledger.path,
                    line.index + 1,
                    f"round {number}: {name} is {_shown(line.body.get(name))}, "
                    f"in the run's other ledgers {_shown(usual)}",
                )
                for ledger, line in same
                if line.body.get(name) != usual
            ]
    return findings


def _enrolled(coordinator: LedgerAudit) -> list[Finding]:
    """A cohort larger than everybody enrolled."""
    population = int(coordinator.header["population"])
    findings = []
    for line in coordinator.charges():
        realised = line.body.get("realised_cohort")
        asked = None if realised is None else realised + line.body.get("dropouts", 0)
        if asked is not None and asked > population:
            what = f"round {line.body['round']}: {asked} users asked, though {population} are enrolled"
            findings.append(Finding(coordinator.path, line.index + 1, what))
    return findings


def _rounds(
    coordinator: LedgerAudit, devices: Sequence[LedgerAudit], findings: list[Finding], remarks: list[str]
) -> None:
    """Rounds that devices charged against those the coordinator did, and how many users each side counts."""
    charged: dict[tuple[str, int], list[LedgerLine]] = defaultdict(list)
    for line in coordinator.charges():
        charged[line.body["line"], line.body["round"]].append(line)
    last = max((number for _, number in charged), default=-1)
    taking_part: Counter[tuple[str, int]] = Counter()
    for device in devices:
        seen = set()
        for line in device.charges():
            place = (str(line.body["line"]), int(line.body["round"]))
            seen.add(place)
            if place in charged:
                continue
            what = f"took part in round {place[1]} (line {place[0]}), which {coordinator.path} does not charge"
            if place[1] == last + 1:
                remarks.append(f"{device.path}: {what}: a run killed in that round, or a release that was hidden")
            else:
                findings.append(Finding(device.path, line.index + 1, what))
        taking_part.update(seen)
    whole = len(devices) >= int(coordinator.header["population"])
    for place, lines in charged.items():
        # A round repeated after a crash is charged again, and the devices answer again.
        counts = [line.body for line in lines if line.body.get("realised_cohort") is not None]
        if not counts or not devices:
            continue
        most = max(body["realised_cohort"] + body.get("dropouts", 0) for body in counts)
        least = min(body["realised_cohort"] for body in counts)
        told = taking_part[place]
        if told > most:
            what = f"round {place[1]}: counts {most} users asked, but {told} devices say they took part"
            if lines[0].body["mechanism"] == "banded":  # after a crash, others may be drawn for the same round
                remarks.append(f"{coordinator.path}: {what}: the round was repeated after a crash, or users are hidden")
            else:
                findings.append(Finding(coordinator.path, lines[0].index + 1, what))
        elif whole and told and told < least:
            what = f"round {place[1]}: counts {least} users, but of all devices only {told} say they took part"
            findings.append(Finding(coordinator.path, lines[0].index + 1, what))


def _device_counts(devices: Sequence[LedgerAudit]) -> list[Finding]:
    """More devices than enrolled users: an invented device dilutes nobody's account, but hides who is who."""
    population = int(devices[0].header["population"])
    if devices[0].header["mode"] == "record" or len(devices) <= population:  # N of record mode may count windows
        return []
    return [Finding(devices[0].path, 1, f"{len(devices)} devices keep ledgers of this run; {population} are enrolled")]


def _usual(values: Iterable[Any]) -> Any:
    """The value most of them have; among equals the first."""
    counted: dict[str, int] = {}
    first: dict[str, Any] = {}
    for value in values:
        name = repr(value)
        counted[name] = counted.get(name, 0) + 1
        first.setdefault(name, value)
    return first[max(counted, key=lambda name: counted[name])] if counted else None


def _shown(value: Any) -> str:
    return repr(value)[:80]
