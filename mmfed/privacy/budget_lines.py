"""Budgets by line: model, metrics, statistics and tuning each with a bound of its own, besides the bound on them all.

A filter (``admit`` refuses before anything is spent, and writes why) and an odometer (``odometer`` reads what is
spent). A line counts as if nothing else were released; the ledger's own target bounds all lines composed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.accounting import Release, epsilon
from mmfed.privacy.events import Line, ReleaseEvent
from mmfed.privacy.ledger import Ledger
from mmfed.privacy.units import check_positive

LINES: tuple[Line, ...] = get_args(Line)


@dataclass(frozen=True)
class Spending:
    """What one line, or all together (line "all"), has spent of its bound; nats, at the ledger's δ.

    Attributes:
        left: never below 0; None where there is no bound.
    """

    line: str
    spent: float
    target: float | None

    @property
    def left(self) -> float | None:
        return None if self.target is None else max(0.0, self.target - self.spent)


def odometer(ledger: Ledger, targets: Mapping[str, float | None] | None = None) -> list[Spending]:
    """Spending of every line that charged something or has a bound, then of all together."""
    bounds = targets or {}
    found = []
    for line in LINES:
        releases = ledger.accountant_releases(line)
        if releases or bounds.get(line) is not None:
            found.append(Spending(line, ledger.spent(line=line).value if releases else 0.0, bounds.get(line)))
    return [*found, Spending("all", ledger.spent().value, ledger.header.target_epsilon)]


def refusal(ledger: Ledger, events: Sequence[ReleaseEvent], targets: Mapping[str, float | None]) -> str | None:
    """Why these releases would pass the bound of a line; None when they may be charged."""
    delta = ledger.accountant.delta
    for line in LINES:
        target = targets.get(line)
        new: list[Release] = [
            one.release() for one in events if one.line == line and one.steps and not ledger.is_charged(one)
        ]
        if target is None or not new:
            continue
        after = epsilon([*ledger.accountant_releases(line), *new], delta).value
        if after > check_positive(f"privacy.lines.{line}", target):
            return (
                f"budget of line {line} exhausted: this release would bring it to {after:.4f}, above its bound "
                f"{target:g} at delta {delta:.3g}"
            )
    return None


def admit(
    ledger: Ledger, events: Sequence[ReleaseEvent], targets: Mapping[str, float | None], *, by: str = "server"
) -> None:
    """Let releases through, or refuse them and write that down. Charges nothing.

    Raises:
        MmfedError: a line's bound would be passed.
    """
    reason = refusal(ledger, events, targets)
    if reason is None:
        return
    number = events[0].round
    ledger.refuse(reason, by=by, round_number=number)
    raise MmfedError(
        ExitCode.PRIVACY,
        f"round {number}: {reason}.",
        "stop here (the model so far stands), or start a new run with a larger privacy.lines bound or more noise.",
    )
