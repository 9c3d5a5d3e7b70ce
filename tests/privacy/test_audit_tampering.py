"""A corpus of tampered ledgers: each is caught, and the line is named."""

import hashlib
import json
import random

import pytest
import rfc8785
from ledger_builder import make_event, make_header, make_key, write_chain

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.audit.verify import Head, read_ledger, verify_ledger
from mmfed.privacy.ledger import Ledger

LINES = 8  # of the honest ledger
KEY = make_key()
PUBLIC = KEY.public_key().public_bytes_raw().hex()


@pytest.fixture
def raw(honest_ledger):
    return honest_ledger().read_bytes().splitlines(keepends=True)


@pytest.fixture
def other(honest_ledger):
    """Another run of the same party, same key."""
    return honest_ledger("other.jsonl", run_id="another").read_bytes().splitlines(keepends=True)


@pytest.fixture
def verdict(tmp_path):
    def judge(content, *, key=None, head=None):
        path = tmp_path / "tampered.jsonl"
        path.write_bytes(content if isinstance(content, bytes) else b"".join(content))
        return verify_ledger(path, public_key=key, head=head).fault

    return judge


def changed(line: bytes, **body) -> bytes:
    """One line with a changed body and its old signature, still canonical."""
    tree = json.loads(line)
    tree["body"].update(body)
    return rfc8785.dumps(tree) + b"\n"


def entries(lines):
    return [(tree["kind"], tree["body"]) for tree in map(json.loads, lines)]


def head_of(lines) -> Head:
    return Head(len(lines) - 1, hashlib.sha256(lines[-1].rstrip(b"\n")).hexdigest())


RELEASES = (1, 2, 3, 4, 6, 7)
FIELDS = {
    "noise_multiplier": 60.0,
    "clip_norm": 0.2,
    "epsilon": 0.01,
    "round": 77,
    "steps": 2,
    "planned_cohort": 999,
    "realised_cohort": 1,
    "result_hash": "b" * 64,
    "dropouts": 0,
}


def test_the_honest_ledger_holds(raw, verdict):
    assert verdict(raw, key=PUBLIC, head=head_of(raw)) is None


@pytest.mark.parametrize("line", RELEASES)
@pytest.mark.parametrize("name", FIELDS)
def test_edited_field(raw, verdict, line, name):
    raw[line] = changed(raw[line], **{name: FIELDS[name]})
    fault = verdict(raw)
    assert (fault.line, "signature does not hold" in fault.what) == (line + 1, True)


@pytest.mark.parametrize("name", ["epsilon", "unit", "population", "target_epsilon", "run_id", "noise_source"])
def test_edited_header(raw, verdict, name):
    value = {"population": 1500, "target_epsilon": 100.0}.get(name, "something else")
    raw[0] = changed(raw[0], **{name: value})
    assert verdict(raw).line == 1


@pytest.mark.parametrize("line", range(LINES))
def test_one_flipped_bit_anywhere(raw, verdict, line):
    generator = random.Random(line)
    for _ in range(25):
        damaged = bytearray(raw[line])
        damaged[generator.randrange(len(damaged) - 1)] ^= 1 << generator.randrange(8)
        fault = verdict([*raw[:line], bytes(damaged), *raw[line + 1 :]])
        assert fault is not None
        assert fault.line == line + 1


@pytest.mark.parametrize("line", range(LINES - 1))
def test_deleted_line(raw, verdict, line):
    del raw[line]
    fault = verdict(raw)
    assert fault.line == line + 1
    assert "index" in fault.what


@pytest.mark.parametrize("line", range(1, LINES))
def test_cut_at_a_line_is_seen_against_an_anchored_head(raw, verdict, line):
    head = head_of(raw)
    assert verdict(raw[:line]) is None  # nobody can see it without the head
    fault = verdict(raw[:line], head=head)
    assert fault.line == line
    assert "cut, or this is an old copy" in fault.what


@pytest.mark.parametrize("line", range(LINES))
@pytest.mark.parametrize("missing", [1, 2, 100])
def test_cut_inside_a_line(raw, verdict, line, missing):
    fault = verdict([*raw[:line], raw[line][:-missing]])
    assert fault.line == line + 1
    assert "incomplete" in fault.what


@pytest.mark.parametrize("line", range(LINES - 1))
def test_swapped_lines(raw, verdict, line):
    raw[line], raw[line + 1] = raw[line + 1], raw[line]
    assert verdict(raw).line == line + 1


@pytest.mark.parametrize("line", range(LINES))
def test_duplicated_line(raw, verdict, line):
    raw.insert(line, raw[line])
    assert verdict(raw).line == line + 2


@pytest.mark.parametrize("line", range(1, LINES))
def test_two_ledgers_of_one_party_spliced(raw, other, verdict, line):
    fault = verdict([*raw[:line], *other[line:]])
    assert fault.line == line + 1
    assert "hash of the line before" in fault.what


@pytest.mark.parametrize("line", RELEASES)
def test_old_copy_replayed_against_an_anchored_head(tmp_path, raw, verdict, line):
    head = head_of(raw)
    with Ledger.create(tmp_path / "again.jsonl", make_header(), KEY) as ledger:
        for number in range(LINES):
            ledger.charge(make_event(number, noise_multiplier=30.0))
    rewritten = (tmp_path / "again.jsonl").read_bytes().splitlines(keepends=True)
    assert verdict(rewritten, key=PUBLIC) is None
    fault = verdict(rewritten, key=PUBLIC, head=head)
    assert fault.line == head.index + 1
    assert "history was rewritten" in fault.what
    assert "old copy" in verdict(raw[:line], key=PUBLIC, head=head).what


def test_growth_after_the_anchor_is_honest(raw, verdict):
    for length in range(1, LINES + 1):
        assert verdict(raw, head=head_of(raw[:length])) is None


@pytest.mark.parametrize("line", range(1, LINES))
def test_signature_of_another_line(raw, verdict, line):
    tree, donor = json.loads(raw[line]), json.loads(raw[line - 1])
    raw[line] = rfc8785.dumps({**tree, "signature": donor["signature"]}) + b"\n"
    fault = verdict(raw)
    assert (fault.line, "signature" in fault.what) == (line + 1, True)


@pytest.mark.parametrize("line", range(1, LINES))
def test_line_signed_again_with_another_key(raw, verdict, line):
    tree = json.loads(raw[line])
    del tree["signature"]
    tree["signature"] = make_key(2).sign(rfc8785.dumps(tree)).hex()
    raw[line] = rfc8785.dumps(tree) + b"\n"
    assert verdict(raw).line == line + 1


def test_whole_ledger_signed_again_needs_the_pinned_key(tmp_path, raw):
    thief = make_key(2)
    forged = entries(raw)
    forged[0][1]["public_key"] = thief.public_key().public_bytes_raw().hex()
    path = write_chain(tmp_path / "forged.jsonl", forged, thief)
    assert verify_ledger(path).fault is None
    fault = verify_ledger(path, public_key=PUBLIC).fault
    assert fault.line == 1
    assert "not the expected one" in fault.what
    forged[0][1]["public_key"] = PUBLIC
    assert verify_ledger(write_chain(path, forged, thief)).fault.line == 1


@pytest.mark.parametrize("line", range(1, LINES))
@pytest.mark.parametrize(
    "text",
    [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9007199254740993", b"1" * 5000, b'"6"', b"null", b"-6", b"0",
     b"true", b"[" * 3000, b"{}"],
)  # fmt: skip
def test_impossible_numbers(raw, verdict, line, text):
    field = b'"steps":1' if b'"steps"' in raw[line] else b'"round":3'
    assert field in raw[line]
    raw[line] = raw[line].replace(field, field.partition(b":")[0] + b":" + text)
    assert verdict(raw).line == line + 1


@pytest.mark.parametrize("line", range(LINES))
@pytest.mark.parametrize(
    "text",
    [b"\n", b"not json\n", b"[]\n", b"null\n", b"{}\n", b"\xff\xfe\x00\n", b'{"index":0}\n', b'"\\ud800"\n',
     b"[" * 100_000 + b"\n", b"{" * 2_000_000 + b"\n"],
)  # fmt: skip
def test_garbage_in_place_of_a_line(raw, verdict, line, text):
    raw[line] = text
    fault = verdict(raw)
    assert fault.line == line + 1
    assert len(fault.what) < 300


@pytest.mark.parametrize("line", range(LINES))
def test_same_content_in_another_spelling(raw, verdict, line):
    tree = json.loads(raw[line])
    for spelling in (
        json.dumps(tree).encode() + b"\n",
        raw[line].replace(b"{", b"{ ", 1),
        raw[line].rstrip(b"\n") + b"\r\n",
        raw[line].replace(b'{"body"', b'{"body":{},"body"', 1),
    ):
        fault = verdict([*raw[:line], spelling, *raw[line + 1 :]])
        assert fault.line == line + 1


@pytest.mark.parametrize("content", [b"", b"\n", b"\n\n", bytes(range(256)) * 40, b"\x00" * 5000, b"{}"])
def test_files_that_are_no_ledger(verdict, content):
    assert verdict(content).line == 1


def test_missing_file_and_folder_are_faults_of_the_caller(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(MmfedError, match="cannot be read") as caught:
            read_ledger(path)
        assert caught.value.code == ExitCode.AUDIT


LIES = {  # by the party that holds the key: the chain and signatures hold, the content does not
    "smaller epsilon": ("release", {"epsilon": 0.85}, "claims epsilon"),
    "more noise than was claimed for": ("release", {"noise_multiplier": 7.0}, "claims epsilon"),
    "less noise than was claimed for": ("release", {"noise_multiplier": 5.0}, "claims epsilon"),
    "sampling that was not claimed for": ("release", {"sampling": "poisson", "sampling_rate": 0.9}, "claims epsilon"),
    "steps that were not claimed for": ("release", {"steps": 2}, "claims epsilon"),
    "other delta": ("release", {"epsilon_delta": 1e-3}, "claimed at delta"),
    "other mechanism": ("release", {"mechanism": "dp-sgd"}, "mechanism"),
    "unequal weights": ("release", {"weights": "examples"}, "weights"),
    "unknown field": ("release", {"comment": "x"}, "unknown field"),
    "sampling rate with full participation": ("release", {"sampling_rate": 0.5}, "full participation"),
    "negative noise": ("release", {"noise_multiplier": -6.0}, "not allowed"),
    "zero clip norm": ("release", {"clip_norm": 0}, "not allowed"),
    "hash of nothing": ("release", {"result_hash": ""}, "not allowed"),
    "delta above 1/N": ("header", {"delta": 0.01}, "not below 1/N"),
    "no population": ("header", {"population": 1}, "not allowed"),
    "no mode": ("header", {"mode": "none"}, "not allowed"),
    "target below what was spent": ("header", {"target_epsilon": 0.5}, "exceeds the target"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_of_the_party_that_holds_the_key(tmp_path, raw, lie):
    kind, change, what = LIES[lie]
    told = entries(raw)
    line = 0 if kind == "header" else LINES - 1
    told[line][1].update(change)
    result = audit_ledgers([write_chain(tmp_path / "lie.jsonl", told, KEY)])
    assert not result.holds
    assert what in result.findings[-1].what
    assert result.findings[-1].line in ((1, LINES) if kind == "header" else (LINES,))


@pytest.mark.parametrize(("line", "change", "what"), [
    (2, {"round": 7}, "comes after round 7"),
    (2, {"round": 0, "result_hash": None}, "charged twice"),
    (2, {"epsilon": 5.0}, "falls from"),
])  # fmt: skip
def test_impossible_histories_are_seen(tmp_path, raw, line, change, what):
    told = entries(raw)
    if "result_hash" in change:
        change = {**change, "result_hash": told[1][1]["result_hash"]}
    told[line][1].update(change)
    fault = verify_ledger(write_chain(tmp_path / "l.jsonl", told, KEY)).fault
    assert what in fault.what
    assert fault.line in (line + 1, line + 2)


@pytest.mark.parametrize("line", RELEASES)
@pytest.mark.parametrize("name", ["epsilon", "noise_multiplier", "round", "weights", "result_hash"])
def test_missing_field(tmp_path, raw, line, name):
    told = entries(raw)
    del told[line][1][name]
    fault = verify_ledger(write_chain(tmp_path / "l.jsonl", told, KEY)).fault
    assert (fault.line, fault.what) == (line + 1, f"release lacks {name}")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"index": -1, "hash": "00"}', '{"index": 1, "hash": "zz"}', "["])
def test_a_bad_head_file_is_refused(tmp_path, content):
    path = tmp_path / "head.json"
    path.write_text(content)
    with pytest.raises(MmfedError, match="not a ledger head"):
        Head.load(path)


def test_head_file_round_trip(tmp_path, raw):
    head = head_of(raw)
    head.save(tmp_path / "head.json")
    assert Head.load(tmp_path / "head.json") == head
