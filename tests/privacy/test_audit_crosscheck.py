"""Ledgers of one run against one another: honest ones fit, and every contradiction is named."""

import pytest
from ledger_builder import make_event, make_header, make_key

from mmfed.privacy.audit.crosscheck import cross_check
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.ledger import Ledger

DEVICES = 5
ROUNDS = 4


@pytest.fixture
def family(tmp_path):
    """Writes a coordinator's and devices' ledgers of one run and compares them."""

    def write(name, number, rounds, *, run_id="run-1", header=None, event=None, skip=()):
        path = tmp_path / name
        defaults = {"population": DEVICES, "delta": 0.01, "target_epsilon": None, "run_id": run_id}
        with Ledger.create(path, make_header(**{**defaults, **(header or {})}), make_key(number)) as ledger:
            for round_number in rounds:
                if round_number not in skip:
                    changes = {"planned_cohort": DEVICES, "realised_cohort": DEVICES, "dropouts": 0, **(event or {})}
                    ledger.charge(make_event(round_number, **changes))
        return path

    def make(*, coordinator=None, odd=None, devices=DEVICES, rounds=ROUNDS):
        paths = [write("ledger.jsonl", 0, range(rounds), **(coordinator or {}))]
        for number in range(1, devices + 1):
            change = dict(odd or {}) if number == 2 else {}
            last = change.pop("rounds", rounds)
            run_id = change.pop("run_id", f"run-1/{number:016x}")
            event = {"noise_added_by": "device", "realised_cohort": 1, **change.pop("event", {})}
            paths.append(write(f"{number:016x}.jsonl", number, range(last), run_id=run_id, event=event, **change))
        return paths

    def check(paths):
        result = audit_ledgers(paths)
        assert result.holds, [str(one) for one in result.findings]
        return cross_check(result.ledgers)

    make.check = check
    make.write = write
    return make


def test_honest_ledgers_fit(family):
    found = family.check(family())
    assert found.findings == ()
    assert found.remarks == ()


@pytest.mark.parametrize("devices", [0, 1, 3])
def test_some_devices_alone_fit(family, devices):
    assert family.check(family(devices=devices)).findings == ()


def test_a_device_in_a_round_that_was_not_charged(family):
    paths = family(coordinator={"skip": (2,)})
    found = family.check(paths)
    assert len(found.findings) == DEVICES
    assert found.findings[0].path == paths[1]
    assert found.findings[0].line == 4
    assert "took part in round 2" in found.findings[0].what


def test_one_round_ahead_is_left_open(family):
    found = family.check(family(odd={"rounds": ROUNDS + 1}))
    assert found.findings == ()
    assert "killed in that round, or a release that was hidden" in found.remarks[0]


def test_two_rounds_ahead_is_not(family):
    found = family.check(family(odd={"rounds": ROUNDS + 2}))
    assert [finding.line for finding in found.findings] == [ROUNDS + 3]


@pytest.mark.parametrize(("realised", "dropouts", "fits"), [(5, 0, True), (3, 2, True), (4, 0, False), (2, 1, False)])
def test_a_coordinator_that_counts_fewer(family, realised, dropouts, fits):
    found = family.check(family(coordinator={"event": {"realised_cohort": realised, "dropouts": dropouts}}))
    assert (found.findings == ()) == fits
    if not fits:
        assert f"counts {realised + dropouts} users asked, but 5 devices" in found.findings[0].what
        assert found.findings[0].line == 2


def test_a_coordinator_that_counts_more(family):
    found = family.check(family(odd={"skip": (1,)}))
    assert [(one.line, "only 4 say they took part" in one.what) for one in found.findings] == [(3, True)]


def test_a_coordinator_that_counts_more_than_are_enrolled(family):
    found = family.check(family(coordinator={"event": {"realised_cohort": 6}}, devices=0))
    assert len(found.findings) == ROUNDS
    assert "6 users asked, though 5 are enrolled" in found.findings[0].what


@pytest.mark.parametrize(
    ("name", "value"), [("population", 50), ("delta", 0.001), ("unit", "one window"), ("adjacency", "replace one")]
)
def test_another_promise(family, name, value):
    paths = family(odd={"header": {name: value}})
    found = family.check(paths)
    assert [(one.path, one.line) for one in found.findings] == [(paths[2], 1)]
    assert f"{name} is {value!r}" in found.findings[0].what


@pytest.mark.parametrize(("name", "value"), [("noise_multiplier", 3.5), ("clip_norm", 0.5), ("steps", 2)])
def test_other_parameters_in_one_round(family, name, value):
    paths = family(odd={"event": {name: value}})
    found = family.check(paths)
    assert {one.path for one in found.findings} == {paths[2]}
    assert [one.line for one in found.findings] == [2, 3, 4, 5]
    assert f"round 0: {name} is {value}" in found.findings[0].what


def test_the_coordinator_may_be_the_odd_one(family):
    paths = family(coordinator={"event": {"clip_norm": 0.5}})
    assert {one.path for one in family.check(paths).findings} == {paths[0]}


def test_more_devices_than_enrolled(family):
    found = family.check(family(devices=DEVICES + 1, coordinator={"event": {"dropouts": 0}}))
    assert any("6 devices keep ledgers of this run; 5 are enrolled" in one.what for one in found.findings)


def test_a_device_of_another_run_is_not_mixed_in(family):
    assert family.check(family(odd={"run_id": "run-2/0000000000000002"})).remarks == (
        "run run-2: 1 device ledgers, and no ledger of their coordinator among these",
    )


def test_copies_and_forks(family):
    paths = family(devices=0)
    copy = paths[0].with_name("copy.jsonl")
    copy.write_bytes(b"".join(paths[0].read_bytes().splitlines(keepends=True)[:3]))
    found = family.check([*paths, copy])
    assert found.findings == ()
    assert "an earlier copy" in found.remarks[0]
    fork = family.write("fork.jsonl", 0, range(2), event={"clip_norm": 0.3})
    found = family.check([*paths, fork])
    assert [(one.path, one.line) for one in found.findings] == [(fork, 2)]
    assert "two histories of 'run-1'" in found.findings[0].what


def test_no_ledger_at_all():
    assert cross_check([]).findings == ()
