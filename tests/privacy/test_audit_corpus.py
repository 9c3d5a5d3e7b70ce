"""Every kind of tampering at every position: caught by the audit, and the first bad line is named.

Each kind is what somebody with the file, but without the signing key, can do; what the party itself can do stands at
the end. ``test_audit_tampering`` holds the cases that need words of their own.
"""

import hashlib
import json
import random
import unicodedata

import pytest
import rfc8785
from ledger_builder import make_event, make_header, make_key, write_chain

from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.audit.verify import Head
from mmfed.privacy.ledger import Ledger

KEY, THIEF = make_key(), make_key(2)
LINES = 8
ACCENTED = "caf\u00e9"


def chained(trees):
    """The lines numbered and chained again, whatever their signatures say."""
    previous, raw = "0" * 64, []
    for index, tree in enumerate(trees):
        line = rfc8785.dumps({**tree, "index": index, "previous": previous})
        previous = hashlib.sha256(line).hexdigest()
        raw.append(line + b"\n")
    return raw


def trees_of(lines):
    return [json.loads(line) for line in lines]


def edited(lines, at, **body):
    trees = trees_of(lines)
    trees[at]["body"].update(body)
    return [*lines[:at], rfc8785.dumps(trees[at]) + b"\n", *lines[at + 1 :]]


def signed_by(tree, key):
    unsigned = {name: value for name, value in tree.items() if name != "signature"}
    return {**unsigned, "signature": key.sign(rfc8785.dumps(unsigned)).hex()}


def without(lines, at):
    return [*lines[:at], *lines[at + 1 :]]


def rechained_edit(lines, at, **body):
    trees = trees_of(lines)
    trees[at]["body"].update(body)
    return chained(trees)


def swapped(lines, at):
    return [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]


def forged(lines, at, other):
    """An event of the thief's, put in and signed with the thief's key."""
    trees = trees_of(lines)
    body = {**trees[-1]["body"], "round": 99, "result_hash": "e" * 64}
    trees.insert(at, {"kind": "release", "body": body, "signature": "0" * 128})
    raw = chained(trees)
    mine = signed_by(json.loads(raw[at]), THIEF)
    return [*raw[:at], rfc8785.dumps(mine) + b"\n", *raw[at + 1 :]]


def shouted(lines, at):
    """The same signature in upper-case hex."""
    tree = trees_of(lines)[at]
    return [*lines[:at], rfc8785.dumps(tree | {"signature": tree["signature"].upper()}) + b"\n", *lines[at + 1 :]]


def respelled(lines, at, old, new):
    if old not in lines[at]:
        return None
    return [*lines[:at], lines[at].replace(old, new, 1), *lines[at + 1 :]]


RELEASES, INNER, ALL = (1, 2, 3, 4, 6, 7), range(1, LINES), range(LINES)
# name: (positions, change of the lines at a position, first bad line counted from 1, or None where a number may do)
KINDS = {
    "edit of sigma": (RELEASES, lambda s, at, o: edited(s, at, noise_multiplier=60.0), 0),
    "edit of q": (RELEASES, lambda s, at, o: edited(s, at, sampling="poisson", sampling_rate=0.01), 0),
    "edit of epsilon": (RELEASES, lambda s, at, o: edited(s, at, epsilon=0.001), 0),
    "edit of the clip norm": (RELEASES, lambda s, at, o: edited(s, at, clip_norm=1e-3), 0),
    "edit, chain made again": (RELEASES, lambda s, at, o: rechained_edit(s, at, noise_multiplier=60.0), 0),
    "header altered": ([0], lambda s, at, o: edited(s, 0, population=2000), 0),
    "header altered, chain made again": ([0], lambda s, at, o: rechained_edit(s, 0, target_epsilon=99.0), 0),
    "delete": (range(LINES - 1), lambda s, at, o: without(s, at), 0),
    "delete, chain made again": (range(1, LINES - 1), lambda s, at, o: chained(trees_of(without(s, at))), 0),
    "reorder": (range(LINES - 1), lambda s, at, o: swapped(s, at), 0),
    "reorder, chain made again": (range(1, LINES - 1), lambda s, at, o: chained(trees_of(swapped(s, at))), 0),
    "duplicate": (ALL, lambda s, at, o: [*s[: at + 1], *s[at:]], 1),
    "duplicate, chain made again": (INNER, lambda s, at, o: chained(trees_of([*s[: at + 1], *s[at:]])), 1),
    "insertion by another key": (INNER, forged, 0),
    "tail signed by another key": (
        INNER,
        lambda s, at, o: [*s[:at], *[rfc8785.dumps(signed_by(t, THIEF)) + b"\n" for t in trees_of(s[at:])]],
        0,
    ),
    "splice with another run of the party": (INNER, lambda s, at, o: [*s[:at], *o[at:]], 0),
    "splice, chain made again": (INNER, lambda s, at, o: chained(trees_of([*s[:at], *o[at:]])), 0),
    "signature of nothing": (ALL, lambda s, at, o: respelled(s, at, b'"signature":"', b'"signature":"00'), 0),
    "upper-case hex": (ALL, lambda s, at, o: shouted(s, at), 0),
    "escaped letter": (ALL, lambda s, at, o: respelled(s, at, b'"kind":"', b'"kind":"\\u0072'), 0),
    "other unicode form": (
        [0],
        lambda s, at, o: respelled(s, 0, ACCENTED.encode(), unicodedata.normalize("NFD", ACCENTED).encode()),
        0,
    ),
    "look-alike letter": (RELEASES, lambda s, at, o: respelled(s, at, b'"round"', '"r\u043eund"'.encode()), 0),
    "byte-order mark": ([0], lambda s, at, o: [b"\xef\xbb\xbf" + s[0], *s[1:]], 0),
    "blank line": (ALL, lambda s, at, o: [*s[:at], b"\n", *s[at:]], 0),
    "carriage return": (ALL, lambda s, at, o: [*s[:at], s[at][:-1] + b"\r\n", *s[at + 1 :]], 0),
    "float spelled another way": (RELEASES, lambda s, at, o: respelled(s, at, b'"steps":1', b'"steps":1.0'), 0),
    "exponent": (RELEASES, lambda s, at, o: respelled(s, at, b'"steps":1', b'"steps":1e0'), 0),
    "key twice": (RELEASES, lambda s, at, o: respelled(s, at, b'"steps":1', b'"steps":1,"steps":1'), 0),
    "NaN": (RELEASES, lambda s, at, o: respelled(s, at, b'"steps":1', b'"steps":NaN'), 0),
    "minus zero": (RELEASES, lambda s, at, o: respelled(s, at, b'"dropouts":2', b'"dropouts":-0'), 0),
    "5000 digits": (RELEASES, lambda s, at, o: respelled(s, at, b'"steps":1', b'"steps":' + b"9" * 5000), 0),
    "infinity by overflow": (RELEASES, lambda s, at, o: respelled(s, at, b'"steps":1', b'"steps":1e400'), 0),
}  # fmt: skip


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory):
    """Eight lines of a party, and of another run of the same party."""
    folder = tmp_path_factory.mktemp("corpus")
    found = []
    for name in (f"run {ACCENTED}", "another"):
        path = folder / f"{len(found)}.jsonl"
        with Ledger.create(path, make_header(run_id=name), KEY) as ledger:
            for number in range(3):
                ledger.charge(make_event(number))
            ledger.charge(make_event(0, line="metrics", noise_multiplier=20.0))
            ledger.refuse("budget exhausted: test", round_number=3)
            ledger.charge(make_event(3, noise_multiplier=9.0))
            ledger.charge(make_event(4))
        found.append(path.read_bytes().splitlines(keepends=True))
    return found


def test_the_corpus_is_as_large_as_it_says(ledgers):
    assert len(KINDS) >= 12
    assert [len(lines) for lines in ledgers] == [LINES, LINES]
    assert sum(len(positions) for positions, *_ in KINDS.values()) > 150


@pytest.mark.parametrize("kind", KINDS)
def test_tampering_is_caught_and_the_line_is_named(ledgers, tmp_path, kind):
    honest, other = ledgers
    positions, change, later = KINDS[kind]
    path = tmp_path / "tampered.jsonl"
    tried = 0
    for at in positions:
        tampered = change(list(honest), at, other)
        if tampered is None:
            continue
        assert tampered != honest
        path.write_bytes(b"".join(tampered))
        result = audit_ledgers([path])
        assert not result.holds, f"{kind} at line {at + 1}"
        assert result.findings[0].line == at + 1 + later, f"{kind} at line {at + 1}: {result.findings[0]}"
        assert 10 < len(result.findings[0].what) < 400
        tried += 1
    assert tried == len(positions)


@pytest.mark.parametrize("end", range(1, LINES))
def test_truncation_and_old_copies_need_the_anchored_head(ledgers, tmp_path, end):
    honest, _ = ledgers
    head = Head(LINES - 1, hashlib.sha256(honest[-1].rstrip(b"\n")).hexdigest())
    path = tmp_path / "cut.jsonl"
    path.write_bytes(b"".join(honest[:end]))
    result = audit_ledgers([path], heads={path: head})
    assert result.findings[0].line == end
    assert "cut, or this is an old copy" in result.findings[0].what


def test_dropped_event_signed_again_by_the_party_needs_the_head_too(ledgers, tmp_path):
    """The party itself holds the key: only what others keep can show that a charge was dropped."""
    honest, _ = ledgers
    head = Head(LINES - 1, hashlib.sha256(honest[-1].rstrip(b"\n")).hexdigest())
    for at in (1, 2, 3, 4, 6):
        kept = [(tree["kind"], tree["body"]) for tree in trees_of(without(honest, at))]
        path = write_chain(tmp_path / "dropped.jsonl", kept, KEY)
        anchored = audit_ledgers([path], heads={path: head})
        assert not anchored.holds
        # Without the head the claims betray it: they count a release that is not there.
        assert any("claims epsilon" in one.what for one in audit_ledgers([path], thorough=True).findings)


def test_random_damage_is_never_taken_for_honest(ledgers, tmp_path):
    """Any change of any byte, anywhere."""
    data = b"".join(ledgers[0])
    path = tmp_path / "damaged.jsonl"
    generator = random.Random(11)
    for _ in range(200):
        damaged = bytearray(data)
        at = generator.randrange(len(data) - 1)
        how = generator.randrange(3)
        if how == 0:
            damaged[at] ^= 1 << generator.randrange(8)
        elif how == 1:
            del damaged[at : at + generator.randrange(1, 40)]
        else:
            damaged[at:at] = generator.randbytes(generator.randrange(1, 8))
        if bytes(damaged) == data:
            continue
        path.write_bytes(bytes(damaged))
        result = audit_ledgers([path])
        assert not result.holds
        assert result.findings[0].line <= data[:at].count(b"\n") + 2
