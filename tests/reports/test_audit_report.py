"""The audit report says what the ledgers say, to whoever reads it, and loads nothing."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "privacy"))

from ledger_builder import make_event, make_header, make_key
from page_reader import Page

from mmfed.privacy.audit.ledgers import AuditResult, audit_ledgers
from mmfed.privacy.ledger import Ledger
from mmfed.reports.audit_report import audit_page, write_audit_report

EVIL = "<script>alert(1)</script>"
EMPIRICAL = {
    "about": "Tried on 40 users.",
    "canary": {"sentence": "Canaries: epsilon is at least 0.31 (95 %)."},
    "attacks": [
        {"name": "membership", "what": f"who took part {EVIL}", "figure": "AUC", "value": 0.55, "low": 0.48,
         "high": 0.62, "chance": 0.5, "limit": 0.9, "holds": True},
        {"name": "inversion", "what": "", "value": None, "holds": None},
    ],
    "checks": [{"name": "noise law", "what": "sigma is half of what is claimed", "holds": False}],
}  # fmt: skip


def ledger(path: Path, *, rounds: int = 3, **header: Any) -> Path:
    with Ledger.create(path, make_header(**header), make_key()) as one:
        for number in range(rounds):
            one.charge(make_event(number))
        if rounds:
            one.charge(make_event(0, line="metrics", noise_multiplier=30.0))
        one.refuse("budget exhausted", round_number=rounds)
    return path


def page_of(result: AuditResult, **more: Any) -> Page:
    return Page(audit_page(result, commands=["mmfed audit demo"], **more))


@pytest.fixture
def honest(tmp_path: Path) -> AuditResult:
    return audit_ledgers([ledger(tmp_path / "ledger.jsonl", run_id="demo-1")])


def test_it_says_what_was_promised_and_spent(honest: AuditResult) -> None:
    page = page_of(honest)
    one = honest.ledgers[0]
    assert one.recomputed is not None
    assert one.mu is not None
    for text in (
        "The ledger holds",
        "one user (everything the user ever did)",
        "add/remove one user",
        "the server is trusted",
        "what others' data say about a person",
        f"{one.recomputed:.4g}",
        f"μ = {one.mu:.4f}",
        "budget ε = 8",
        "all 1000 enrolled",
        "metrics",
        "accuses 1 % of the others wrongly",
        "No ledger can prove that",
        "obtained some other way",
        "mmfed audit demo",
        one.header["public_key"],
        one.head.hash if one.head else "",
        "None in this audit",
    ):
        assert text in page.text, text
    for value in one.epsilon_at.values():
        assert f"{value:.4f}" in page.text
    assert page.loaded == ["data:,"] or not [one for one in page.loaded if not one.startswith("data:")]
    assert not page.handlers
    assert "script" not in page.tags


def test_faults_stand_first_and_no_figure_is_to_be_believed(tmp_path: Path) -> None:
    path = ledger(tmp_path / "ledger.jsonl", run_id="demo-1")
    path.write_bytes(path.read_bytes().replace(b'"round":1', b'"round":7'))
    page = page_of(audit_ledgers([path]))
    assert page.text.index("THIS AUDIT FAILS: 1 fault in 1 of 1 files") < page.text.index("Privacy audit")
    assert "the signature does not hold" in page.text
    assert "not to be believed" in page.text
    assert "Differential privacy for" not in page.text
    assert "accuses" not in page.text


def test_not_even_a_header(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"\x00\xff")
    assert "Not even the header" in page_of(audit_ledgers([path])).text


def test_nothing_to_audit() -> None:
    assert "There is no ledger" in page_of(AuditResult((), ())).text


def test_a_ledger_without_a_release(tmp_path: Path) -> None:
    page = page_of(audit_ledgers([ledger(tmp_path / "ledger.jsonl", rounds=0)]))
    assert "Nothing was released yet" in page.text
    assert "AUC" in page.text


def test_whatever_a_ledger_says_stays_text(tmp_path: Path) -> None:
    path = ledger(tmp_path / "ledger.jsonl", run_id=EVIL, unit=EVIL, not_covered=(EVIL,), delta_reason=EVIL)
    page = page_of(audit_ledgers([path]), remarks=[EVIL], empirical=EMPIRICAL)
    assert "script" not in page.tags
    assert page.text.count("alert(1)") > 4


def test_attacks_are_shown_with_the_warning(honest: AuditResult) -> None:
    text = page_of(honest, empirical=EMPIRICAL).text
    for said in ("AUC 0.550", "[0.480, 0.620]", "within the promise", "FAILS", "sigma is half", "at least 0.31"):
        assert said in text
    assert "A low bound is no evidence of a small ε" in text
    assert "The ledger holds" in text
    refuted = page_of(honest, empirical={**EMPIRICAL, "holds": False}).text
    assert "THIS AUDIT FAILS: an attack or a check" in refuted


def test_devices_by_group(tmp_path: Path) -> None:
    paths = [ledger(tmp_path / f"{n}.jsonl", run_id=f"r/{n:016x}", rounds=1 + n) for n in range(4)]
    result = audit_ledgers(paths)
    text = page_of(result).text
    assert "worst device" in text
    assert "devices with 2 to 3 releases" in text
    assert "devices with 4 to 7 releases" in text
    text = page_of(result, groups={f"{0:016x}": "under 30", "3": "over 60"}).text
    for said in ("under 30", "over 60", "no group given"):
        assert said in text


def test_three_files_that_agree(honest: AuditResult, tmp_path: Path) -> None:
    written = write_audit_report(tmp_path / "out", honest, commands=[], empirical=EMPIRICAL, remarks=["a note"])
    assert [path.name for path in written] == ["audit.html", "audit.json", "audit.csv"]
    tree = json.loads(written[1].read_text())
    assert tree["holds"] is True
    assert tree["remarks"] == ["a note"]
    assert tree["empirical"] == EMPIRICAL
    assert tree["attack_risk"]["true_positive_rate"]["0.01"] < 1
    rows = list(csv.DictReader(written[2].read_text().splitlines()))
    assert len(rows) == 1
    assert float(rows[0]["recomputed_epsilon"]) == honest.ledgers[0].recomputed
    assert rows[0]["holds"] == "yes"


def test_no_cell_is_run_as_a_formula(tmp_path: Path) -> None:
    result = audit_ledgers([ledger(tmp_path / "ledger.jsonl", run_id="=HYPERLINK(1)")])
    *_, rows = write_audit_report(tmp_path / "out", result, commands=[])
    assert "'=HYPERLINK(1)" in rows.read_text()
