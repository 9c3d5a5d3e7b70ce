"""The privacy statement as a page prints it: first line, facts and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmfed.reports.run_facts import RunFacts, mapping, strings
from mmfed.reports.tables import number


@dataclass(frozen=True)
class PrivacyWords:
    """What a reader must know of a run's privacy before any figure.

    Attributes:
        protected: whether differential privacy is claimed.
        headline: the first line of the page.
        facts: (name, text) pairs: unit, adjacency, trust, δ.
        covered, not_covered: what ε accounts for and what it does not.
        warnings: what limits the claim.
    """

    protected: bool
    headline: str
    facts: list[tuple[str, str]]
    covered: list[str]
    not_covered: list[str]
    warnings: list[str]


def statement_words(statement: Mapping[str, Any]) -> PrivacyWords:
    """A statement as ``results.json`` holds it."""
    if statement.get("mode") == "none":
        return PrivacyWords(
            protected=False,
            headline="No differential privacy: ε is infinite. The model may reveal what a person did.",
            facts=[("Trust", _said(statement, "trust"))],
            covered=[],
            not_covered=strings(statement.get("not_covered")),
            warnings=[],
        )
    spent = number(statement.get("epsilon"))
    delta = number(statement.get("delta"))
    worst = "worst device: " if statement.get("mode") in ("record", "user-local") else ""
    shown = f"{worst}ε = {_epsilon(spent)}"
    small = "not recorded" if delta is None else f"{delta:.3g}"
    claim = "Simulated differential privacy" if statement.get("simulated") else "Differential privacy"
    warnings = []
    if statement.get("mode") == "record":
        warnings.append(
            "This protects single windows of interactions, not a person: the ε of a whole user is far larger."
        )
    if statement.get("mode") == "user-local":
        warnings.append("That a device takes part, and when, is not hidden: in the local model only what it sends is.")
    if statement.get("simulated"):
        warnings.append(f"Simulated guarantee: {statement['simulated']}.")
    return PrivacyWords(
        protected=True,
        headline=f"{claim} for {_said(statement, 'unit')}: {shown}, δ = {small}.",
        facts=[
            ("Unit", _said(statement, "unit")),
            ("Adjacency", _said(statement, "adjacency")),
            ("Trust", _said(statement, "trust")),
            ("δ and its reason", f"{small}: {_said(statement, 'delta_reason')}"),
        ],
        covered=strings(statement.get("covered")),
        not_covered=strings(statement.get("not_covered")),
        warnings=warnings,
    )


def run_words(facts: RunFacts) -> PrivacyWords:
    """The statement of a run; before its evaluation, what its configuration and ledgers say."""
    statement = mapping(facts.results.get("privacy"))
    if statement:
        words = statement_words(statement)
        stated = number(statement.get("epsilon"))
        if words.protected and facts.charged is not None and not _same(stated, facts.charged):
            words.warnings.append(
                f"The results state ε = {_epsilon(stated)}, the ledgers charge {_epsilon(facts.charged)}: "
                "believe neither before an audit."
            )
        return words
    if facts.mode == "none":
        return statement_words({"mode": "none", "trust": "the server sees every update and is trusted with it"})
    if not facts.header:
        mode = f"mode {facts.mode}" if facts.mode else "mode not recorded"
        return PrivacyWords(
            protected=False,
            headline=f"No privacy account yet ({mode}): no release is charged in this run folder.",
            facts=[],
            covered=[],
            not_covered=[],
            warnings=[],
        )
    seeded = str(facts.header.get("noise_source", "")).startswith("seeded")
    unfinished = dict(facts.header) | {
        "epsilon": 0.0 if facts.charged is None else facts.charged,
        "simulated": f"noise source: {facts.header.get('noise_source')}" if seeded else None,
    }
    words = statement_words(unfinished)
    words.warnings.append("This run is not finished: ε is what its ledgers have charged so far.")
    return words


def _said(statement: Mapping[str, Any], key: str) -> str:
    return str(statement.get(key) or "not recorded")


def _epsilon(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.4g}"


def _same(stated: float | None, charged: float) -> bool:
    return stated is not None and abs(stated - charged) <= 1e-6 * max(1.0, charged)
