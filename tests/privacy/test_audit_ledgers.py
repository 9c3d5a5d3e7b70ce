import json
from functools import lru_cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_builder import make_event, make_header, make_key, write_chain

from mmfed.privacy.accounting import epsilon
from mmfed.privacy.audit.ledgers import DELTAS, audit_ledgers
from mmfed.privacy.audit.verify import verify_ledger
from mmfed.privacy.ledger import Ledger, header_for
from mmfed.privacy.units import guarantee_for

KEY = make_key()
PUBLIC = KEY.public_key().public_bytes_raw().hex()

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["model", "metrics", "statistics", "tuning", "refusal"]),
        st.integers(0, 3),
        st.floats(0.3, 1e4),
        st.sampled_from(["a", "b"]),
        st.integers(1, 10**6),
        st.floats(1e-9, 1e9),
    ),
    max_size=7,
)


def write(path, drawn, **header):
    """A ledger of drawn events; the drawn step says how far the round moves on."""
    path.unlink(missing_ok=True)
    rounds: dict[str, int] = {}
    with Ledger.create(path, make_header(target_epsilon=None, **header), KEY) as ledger:
        for line, step, sigma, result, cohort, clip_norm in drawn:
            if line == "refusal":
                ledger.refuse("no", round_number=step)
                continue
            rounds[line] = rounds.get(line, 0) + step
            changes = {"noise_multiplier": sigma, "planned_cohort": cohort, "clip_norm": clip_norm}
            ledger.charge(make_event(rounds[line], line=line, result_hash=result * 64, **changes))
    return path


@given(EVENTS)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_false_alarm_on_honest_ledgers(tmp_path, drawn):
    path = write(tmp_path / "ledger.jsonl", drawn)
    result = audit_ledgers([path], {path: PUBLIC}, thorough=True)
    assert result.holds, [str(finding) for finding in result.findings]
    Ledger.open(path, KEY).close()


SAMPLED = st.lists(
    st.tuples(st.sampled_from([0.7, 1.0, 2.5]), st.sampled_from([0.001, 0.05, 0.3, 1.0])), min_size=1, max_size=4
)


@given(SAMPLED)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_false_alarm_with_sampling(tmp_path, drawn):
    path = tmp_path / "ledger.jsonl"
    path.unlink(missing_ok=True)
    with Ledger.create(path, make_header(target_epsilon=None), KEY) as ledger:
        for number, (sigma, rate) in enumerate(drawn):
            sampling = "full" if rate == 1.0 else "poisson"
            ledger.charge(make_event(number, noise_multiplier=sigma, sampling=sampling, sampling_rate=rate))
    result = audit_ledgers([path])
    assert result.holds, [str(finding) for finding in result.findings]
    assert result.ledgers[0].recomputed == pytest.approx(result.ledgers[0].claimed, rel=1e-3, abs=1e-5)


@lru_cache(maxsize=1)
def device_header():
    guarantee = guarantee_for("record", epsilon=4, population=30, delta=1e-5, window=10)
    return header_for(
        guarantee, run_id="r", population=30, population_basis="windows", target_epsilon=None, noise_source="csprng"
    )


def test_record_ledgers_hold(tmp_path):
    path = tmp_path / "device.jsonl"
    with Ledger.create(path, device_header(), KEY) as ledger:
        for number in range(3):
            changes = {"mechanism": "dp-sgd", "noise_added_by": "device", "sampling": "poisson", "sampling_rate": 1 / 3}
            ledger.charge(make_event(number, steps=10, noise_multiplier=3.0, **changes))
    result = audit_ledgers([path], thorough=True)
    assert result.holds, [str(finding) for finding in result.findings]
    assert result.ledgers[0].claimed == pytest.approx(2.74, abs=0.005)


def test_claims_on_a_coarse_grid_are_not_taken_for_lies(tmp_path):
    grid = 1e-4
    with Ledger.create(tmp_path / "l", make_header(delta=1e-8, target_epsilon=None), KEY) as ledger:
        event = make_event(0, noise_multiplier=9.0, sampling="poisson", sampling_rate=1e-3, steps=5000)
        ledger.charge(event)
        entries = [(entry.kind, dict(entry.body)) for entry in ledger.events]
    claim = epsilon([event.release()], 1e-8, discretisation=grid).value
    assert claim > entries[1][1]["epsilon"] * 1.02 + 1e-3
    entries[1][1].update(epsilon=claim, epsilon_discretisation=grid)
    assert audit_ledgers([write_chain(tmp_path / "coarse", entries, KEY)]).holds
    entries[1][1]["epsilon"] = claim * 1.1
    assert not audit_ledgers([write_chain(tmp_path / "more", entries, KEY)]).holds


def test_claims_by_renyi_are_not_taken_for_lies(tmp_path):
    """At tiny δ the production PLD has no bound and Rényi DP is claimed; the second path is tighter there."""
    path = tmp_path / "ledger.jsonl"
    with Ledger.create(path, make_header(delta=1e-15, target_epsilon=None), KEY) as ledger:
        for number in range(6):
            ledger.charge(make_event(number, noise_multiplier=1.0, sampling="poisson", sampling_rate=0.01))
        assert ledger.events[-1].body["epsilon_method"] == "rdp"
    result = audit_ledgers([path])
    assert result.holds, [str(finding) for finding in result.findings]
    assert result.ledgers[0].recomputed < result.ledgers[0].claimed


def test_result_says_what_was_checked(honest_ledger):
    path = honest_ledger()
    with Ledger.open(path, KEY) as ledger:
        head = ledger.head
    unpinned = audit_ledgers([path]).ledgers[0]
    pinned = audit_ledgers([path], {path: PUBLIC}, {path: head}).ledgers[0]
    assert (unpinned.key_pinned, unpinned.anchored) == (False, False)
    assert (pinned.key_pinned, pinned.anchored) == (True, True)
    assert pinned.releases == 6
    assert pinned.refusals == 1
    assert pinned.head == head
    assert pinned.mu == pytest.approx((4 / 36 + 1 / 400 + 1 / 81) ** 0.5)
    assert set(pinned.epsilon_by_line) == {"model", "metrics"}
    assert max(pinned.epsilon_by_line.values()) < pinned.recomputed
    assert set(pinned.epsilon_at) == {delta for delta in DELTAS if delta < 1 / 1000}
    assert sorted(pinned.epsilon_at.values()) == [pinned.epsilon_at[d] for d in sorted(pinned.epsilon_at, reverse=True)]
    json.dumps(audit_ledgers([path]).to_dict(), allow_nan=False)


def test_ledger_without_releases_holds(tmp_path):
    Ledger.create(tmp_path / "l", make_header(), KEY).close()
    result = audit_ledgers([tmp_path / "l"])
    assert result.holds
    assert result.ledgers[0].claimed is None


def test_one_bad_ledger_among_good_ones_is_named(tmp_path, honest_ledger):
    good, bad = honest_ledger("good.jsonl"), honest_ledger("bad.jsonl")
    bad.write_bytes(bad.read_bytes().replace(b'"epsilon":0', b'"epsilon":1', 1))
    result = audit_ledgers([good, bad])
    assert not result.holds
    assert [ledger.holds for ledger in result.ledgers] == [True, False]
    assert {finding.path for finding in result.findings} == {bad}
    assert str(result.findings[0]).startswith(f"{bad}: line 2: ")


def test_a_middle_claim_is_checked_when_thorough(tmp_path):
    with Ledger.create(tmp_path / "l", make_header(), KEY) as ledger:
        for number in range(60):
            ledger.charge(make_event(number, noise_multiplier=30.0))
        entries = [(event.kind, dict(event.body)) for event in ledger.events]
    entries[31][1]["epsilon"] = entries[30][1]["epsilon"]
    path = write_chain(tmp_path / "lie.jsonl", entries, KEY)
    assert verify_ledger(path).fault is None
    assert [finding.line for finding in audit_ledgers([path], thorough=True).findings] == [32]
