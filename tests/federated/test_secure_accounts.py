"""Every device charges its own ledger before its masked vector leaves, and stops when its budget is spent."""

from __future__ import annotations

import pytest
from federation import federate
from test_secure_devices import RefusalError, Round
from test_secure_rounds import MODE, releases, silent_from

from mmfed.errors import MmfedError
from mmfed.federated import secure_messages as messages
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.records import RunFolder, read_lines
from mmfed.simulation.audit_run import run_ledgers


def test_devices_and_coordinator_charge_the_same_rounds(configured):
    config = configured(*MODE)
    run, _ = federate(config, nodes=12)
    paths = run_ledgers(run)
    assert len(paths) == 13
    audit = audit_ledgers(paths)
    assert audit.holds, audit.findings
    assert {ledger.claimed for ledger in audit.ledgers} == {releases(run)[-1]["epsilon"]}


def test_who_vanishes_after_sending_has_paid_and_who_vanishes_before_has_not(configured):
    fakes = {3: silent_from(messages.AGREE), 7: silent_from(messages.SHARE)}
    run, _ = federate(configured(*MODE), nodes=12, fakes=fakes)
    audit = audit_ledgers(run_ledgers(run))
    assert audit.holds, audit.findings
    assert len(audit.ledgers) == 1 + 11


def test_a_round_that_was_given_up_is_charged_by_the_devices_alone(configured):
    """They cannot know; repeated from the same seed it is the same release, so it is not charged again."""
    config = configured(*MODE)
    gone = {node: silent_from(messages.ANSWER) for node in (1, 4, 5, 9)}
    with pytest.raises(MmfedError, match="nothing was released"):
        federate(config, nodes=12, fakes=gone)
    run = RunFolder(config.run.folder / config.run.name)
    assert releases(run) == []
    assert [ledger.releases for ledger in audit_ledgers(run_ledgers(run)).ledgers] == [0] + [1] * 12
    federate(config, nodes=12, resume=True)
    audit = audit_ledgers(run_ledgers(run))
    assert audit.holds, audit.findings
    assert [ledger.releases for ledger in audit.ledgers] == [1] * 13


def test_the_owners_bound_over_all_runs_holds(configured, tmp_path):
    """max-total-epsilon, counted at its own delta, in a run that promises no bound itself."""
    config = configured("privacy.mode=user-distributed", "privacy.noise_source=csprng")
    one = Round(config, tmp_path / "state", **{"max-total-epsilon": "6", "total-delta": "1e-6"})
    one.enrol()
    one.until_masked()
    with pytest.raises(RefusalError, match="max-total-epsilon") as fault:
        one.until_masked()
    assert "over all runs" in str(fault.value)


def test_a_device_refuses_beyond_its_budget_whatever_the_coordinator_says(configured, tmp_path):
    """One round costs 1.91; asked for a second attempt with fresh noise, the device says no and writes it down."""
    config = configured("privacy.mode=user-distributed", "privacy.noise_source=csprng", "privacy.epsilon=2.5")
    one = Round(config, tmp_path / "state")
    one.enrol()
    one.until_masked()
    with pytest.raises(RefusalError, match="a device's budget is spent: this round would bring epsilon to 3"):
        one.until_masked()
    (path,) = (tmp_path / "state").rglob("ledgers/*.jsonl")
    lines = read_lines(path)
    assert [line["kind"] for line in lines] == ["header", "release", "refusal"]
    assert lines[1]["body"]["realised_cohort"] is None
    assert lines[2]["body"]["by"] == "device"
    assert audit_ledgers([path]).holds
    with pytest.raises(RefusalError, match="out of order"):
        one.say(messages.AGREE, round=one.context().digest, survivors=list(one.context().parties))
