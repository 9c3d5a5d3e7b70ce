"""Distributed noise in the ledger and its audit: charged as it is, and every understatement found."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, replace

import pytest
from ledger_builder import make_header, make_key, write_chain

from mmfed.errors import MmfedError
from mmfed.privacy.accounting import GaussianRelease, epsilon
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.audit.recompute import Term, epsilon_upper_bound, gaussian_mu
from mmfed.privacy.events import release_of
from mmfed.privacy.ledger import Ledger
from mmfed.privacy.skellam import SkellamRelease
from mmfed.privacy.skellam_event import SkellamEvent
from mmfed.records import read_lines


def event(number: int, **changes) -> SkellamEvent:
    values = {
        "round": number,
        "clip_norm": 0.1,
        "noise_multiplier": 3.0,
        "sampling": "full",
        "sampling_rate": 1.0,
        "planned_cohort": 100,
        "realised_cohort": 90,
        "dropouts": 10,
        "result_hash": hashlib.sha256(str(number).encode()).hexdigest(),
        "l2_squared": 66_556,
        "l1": 16_511,
        "minimum_cohort": 80,
    }
    return SkellamEvent(**{**values, **changes})


@pytest.fixture
def written(tmp_path):
    """A ledger of six releases."""
    path = tmp_path / "ledger.jsonl"
    with Ledger.create(path, make_header(mode="user-distributed", target_epsilon=None), make_key()) as ledger:
        for number in range(6):
            ledger.charge(event(number))
    return path


def spoilt(path, **changes):
    """The same chain, well signed, with changed releases."""
    lines = read_lines(path)
    entries = [(line["kind"], {**line["body"], **(changes if line["kind"] == "release" else {})}) for line in lines]
    return write_chain(path.with_name("spoilt.jsonl"), entries, make_key())


def test_an_honest_ledger_holds(written):
    audit = audit_ledgers([written], thorough=True)
    assert audit.holds, audit.findings
    found = audit.ledgers[0]
    assert found.claimed == pytest.approx(found.recomputed, rel=1e-9)
    assert found.mu is None
    assert set(found.epsilon_by_line) == {"model"}


def test_a_resumed_ledger_goes_on_and_charges_nothing_twice(written):
    header = make_header(mode="user-distributed", target_epsilon=None)
    with Ledger.resume(written, header, make_key()) as ledger:
        before = ledger.spent().value
        ledger.charge(event(5))
        assert ledger.spent().value == before
        ledger.charge(event(6))
        assert ledger.spent().value > before
        assert ledger.spent(1e-9).value > ledger.spent().value
    assert audit_ledgers([written]).holds


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"noise_multiplier": 2.0}, "claims epsilon"),
        ({"l2_squared": 16_511, "noise_multiplier": 1.0}, "claims epsilon"),
        ({"steps": 2}, "claims epsilon"),
        ({"realised_cohort": 79}, "below its minimum"),
        ({"l1": 200}, "below the square root"),
        ({"l1": 66_557}, "exceeds l2_squared"),
        ({"l1": 0}, "release.l1"),
        ({"sampling": "poisson", "sampling_rate": 0.5}, "saw who took part"),
        ({"mechanism": "gaussian"}, "unknown field|mechanism"),
        ({"minimum_cohort": None}, "release.minimum_cohort"),
    ],
)
def test_what_is_wrong_is_named(written, changes, said):
    findings = audit_ledgers([spoilt(written, **changes)]).findings
    assert findings
    assert any(re.search(said, finding.what) for finding in findings), findings


def test_a_gaussian_in_this_mode_is_found(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with Ledger.create(path, make_header(target_epsilon=None), make_key()) as ledger:
        ledger.charge(event(0))  # skellam under a user-central header
    assert "mechanism skellam in mode user-central" in audit_ledgers([path]).findings[0].what


def test_two_code_paths_agree() -> None:
    for sigma, count in ((0.5, 1), (1.0, 20), (4.0, 200)):
        release = SkellamRelease(noise_multiplier=sigma, l2_squared=10_000, l1=5_000, count=count)
        term = Term(sigma, 1.0, count, l2_squared=10_000, l1=5_000)
        ours, theirs = epsilon([release], 1e-6).value, epsilon_upper_bound([term], 1e-6)
        assert theirs == pytest.approx(ours, rel=2e-3)
        assert theirs <= ours * (1 + 1e-9)  # its orders are finer


def test_two_code_paths_agree_on_mixed_ledgers() -> None:
    releases = [
        SkellamRelease(noise_multiplier=2.0, l2_squared=10_000, l1=5_000, count=10),
        GaussianRelease(noise_multiplier=1.5, sampling="poisson", sampling_rate=0.05, count=40),
        GaussianRelease(noise_multiplier=5.0, sampling="full", sampling_rate=1.0),
    ]
    terms = [Term(2.0, 1.0, 10, l2_squared=10_000, l1=5_000), Term(1.5, 0.05, 40), Term(5.0, 1.0, 1)]
    assert epsilon_upper_bound(terms, 1e-6) == pytest.approx(epsilon(releases, 1e-6).value, rel=5e-3)
    assert gaussian_mu(terms) is None


def test_an_event_reads_back_as_it_was() -> None:
    one = event(3)
    assert release_of(asdict(one)) == one.release()
    with pytest.raises(MmfedError):
        replace(one, l1=0)
