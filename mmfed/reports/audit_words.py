"""The words of an audit report: what an account rests on, and what no ledger can show."""

from __future__ import annotations

from collections.abc import Sequence

from mmfed.privacy.audit.ledgers import LedgerAudit
from mmfed.reports.privacy_words import PrivacyWords, statement_words

_MECHANISMS = {
    "gaussian": "Gaussian noise on a sum of updates, each clipped as a whole by the device that sends it",
    "dp-sgd": "DP-SGD on the device: every record's gradient is clipped, Gaussian noise is added before it leaves",
    "laplace": "Laplace noise that the device adds to its whole update, clipped in L1, before it leaves",
    "banded": "Correlated Gaussian noise on sums of clipped updates: the whole run is one release, charged as more "
    "participations of one user become possible",
    "participation": "One user's participation in a round of correlated noise, as the device itself counts it",
}


def ledger_words(ledger: LedgerAudit) -> PrivacyWords:
    """The promise of a ledger with the ε that its own lines give."""
    header = ledger.header
    seeded = str(header.get("noise_source", "")).startswith("seeded")
    statement = dict(header) | {
        "epsilon": ledger.recomputed or 0.0,
        "simulated": f"noise source: {header['noise_source']}" if seeded else None,
    }
    return statement_words(statement)


def assumptions(ledgers: Sequence[LedgerAudit]) -> list[str]:
    """What must be true, besides what was checked, for the figures to mean what they say."""
    charges = [line.body for one in ledgers for line in one.charges()]
    names = list(dict.fromkeys(str(body["mechanism"]) for body in charges))
    found = [f"Mechanism: {_MECHANISMS.get(name, name)}." for name in names]
    found.append(
        "The noise was really added, as drawn, and nothing was released outside the ledgers. No ledger can prove that; "
        "the attacks and checks further down can refute it."
    )
    if any(body["sampling"] == "poisson" for body in charges):
        found.append(
            "Sampling lowers ε only because every unit joined by an independent coin, and only against those who do "
            "not see who was drawn."
        )
    if any(body["noise_added_by"] == "server" for body in charges):
        found.append("The server adds the noise: it sees single updates and is trusted to keep them to itself.")
    found.append("Noise and rates were fixed before the run, not chosen from private results.")
    basis = next((str(one.header.get("population_basis")) for one in ledgers if one.header), "not recorded")
    found.append(f"The N that δ refers to: {basis}.")
    return found


def unseen(ledgers: Sequence[LedgerAudit]) -> list[str]:
    """What this audit had no means to see."""
    found = []
    unpinned = sum(not one.key_pinned for one in ledgers)
    unanchored = sum(not one.anchored for one in ledgers)
    if unpinned:
        found.append(
            f"{unpinned} of {len(ledgers)} public keys are those the ledgers themselves declare. A party that writes "
            "its whole ledger anew under another key is seen only against a key obtained some other way (--key)."
        )
    if unanchored:
        found.append(
            f"{unanchored} of {len(ledgers)} ledgers have no head kept by another party: cut at the end of a line, or "
            "replaced by an old copy, they look whole (--head)."
        )
    return found
