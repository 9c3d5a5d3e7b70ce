import errno
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys

import dp_accounting
import numpy as np
import pytest
import rfc8785
from dp_accounting.pld import PLDAccountant
from ledger_builder import make_event, make_header, make_key, write_chain

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy import ledger as ledger_module
from mmfed.privacy.accounting import EpsilonEstimate, epsilon
from mmfed.privacy.ledger import Ledger, header_for, result_hash
from mmfed.privacy.units import guarantee_for


def test_lines_are_canonical_chained_and_signed(honest_ledger, key):
    raw = honest_ledger().read_bytes().splitlines()
    assert len(raw) == 8
    previous = "0" * 64
    for index, line in enumerate(raw):
        tree = json.loads(line)
        assert rfc8785.dumps(tree) == line
        assert tree["index"] == index
        assert tree["previous"] == previous
        signature = bytes.fromhex(tree.pop("signature"))
        key.public_key().verify(signature, rfc8785.dumps(tree))
        previous = hashlib.sha256(line).hexdigest()
    header = json.loads(raw[0])["body"]
    assert header["public_key"] == key.public_key().public_bytes_raw().hex()
    assert header["target_epsilon"] == 8


def test_reopening_continues_where_it_stopped(honest_ledger, key):
    path = honest_ledger()
    with Ledger.open(path, key) as first:
        head, spent = first.head, first.spent()
        assert len(first.events) == 8
        assert len(first.accountant_releases()) == 6
        assert len(first.accountant_releases("metrics")) == 1
    with Ledger.open(path, key) as again:
        assert again.head == head
        assert again.spent() == spent
        assert again.charge(make_event(5)) == 8
    with Ledger.open(path, key) as after:
        assert after.head.index == 8


@pytest.mark.parametrize("sampled", [False, True])
def test_claims_equal_dp_accounting_on_the_events(tmp_path, key, sampled):
    path = tmp_path / "ledger.jsonl"
    reference = PLDAccountant(value_discretization_interval=1e-4)
    with Ledger.create(path, make_header(), key) as ledger:
        for number in range(6):
            sigma = 2.0 if number < 4 else 3.0
            changes = {"sampling": "poisson", "sampling_rate": 0.1, "planned_cohort": 100} if sampled else {}
            ledger.charge(make_event(number, noise_multiplier=sigma, **changes))
            gaussian = dp_accounting.GaussianDpEvent(sigma)
            reference.compose(dp_accounting.PoissonSampledDpEvent(0.1, gaussian) if sampled else gaussian)
            claim = ledger.events[-1].body
            direct = reference.get_epsilon(ledger.header.delta)
            assert claim["epsilon"] == pytest.approx(direct, abs=1e-6)
            assert claim["epsilon_delta"] == ledger.header.delta
        assert ledger.spent().value == pytest.approx(direct, abs=1e-6)
        assert ledger.spent(1e-6).value == pytest.approx(reference.get_epsilon(1e-6), abs=1e-6)


def test_all_budget_lines_add_up(tmp_path, key):
    with Ledger.create(tmp_path / "l", make_header(), key) as ledger:
        for line in ("model", "metrics", "statistics", "tuning"):
            ledger.charge(make_event(0, line=line))
        assert ledger.spent().value == pytest.approx(epsilon(ledger.accountant_releases(), ledger.header.delta).value)
        assert ledger.spent(line="model").value < ledger.spent().value


def test_the_same_release_is_charged_once_and_a_different_one_again(tmp_path, key):
    path = tmp_path / "ledger.jsonl"
    with Ledger.create(path, make_header(), key) as ledger:
        first, spent = ledger.charge(make_event(0)), ledger.spent()
        size = path.stat().st_size
        assert ledger.charge(make_event(0)) == first
        assert path.stat().st_size == size
    with Ledger.open(path, key) as ledger:
        assert ledger.charge(make_event(0)) == first
        assert ledger.spent() == spent
        assert ledger.charge(make_event(0, result_hash="a" * 64)) == first + 1
        assert ledger.charge(make_event(0, line="metrics")) == first + 2
        assert len(ledger.accountant_releases()) == 3
        assert ledger.spent().value > spent.value


def test_replayed_rounds_after_a_crash_may_be_charged_again(tmp_path, key):
    """Noise that cannot be drawn again: a run resumed from an older checkpoint repeats rounds, and pays for them."""
    path = tmp_path / "ledger.jsonl"
    with Ledger.create(path, make_header(), key) as ledger:
        for number in range(4):
            ledger.charge(make_event(number))
    with Ledger.open(path, key) as ledger:
        for number in range(2, 6):
            ledger.charge(make_event(number, result_hash=f"{number:064x}"))
    with Ledger.open(path, key) as ledger:
        assert len(ledger.accountant_releases()) == 8


def test_charge_is_durable_before_it_returns(tmp_path, key, monkeypatch):
    path = tmp_path / "ledger.jsonl"
    calls = []
    real_write, real_sync = os.pwrite, os.fsync

    def write(descriptor, data, offset):
        calls.append("write")
        return real_write(descriptor, data, offset)

    def sync(descriptor):
        calls.append("sync")
        return real_sync(descriptor)

    with Ledger.create(path, make_header(), key) as ledger:
        monkeypatch.setattr(os, "pwrite", write)
        monkeypatch.setattr(os, "fsync", sync)
        ledger.charge(make_event(0))
        assert calls == ["write", "sync"]
        assert len(path.read_bytes().splitlines()) == 2


def test_creation_syncs_the_file_and_its_folder(tmp_path, key, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))[1])
    Ledger.create(tmp_path / "ledger.jsonl", make_header(), key).close()
    assert str(tmp_path) in synced
    assert any(".ledger.jsonl." in name for name in synced)
    assert [p.name for p in tmp_path.iterdir()] == ["ledger.jsonl"]


@pytest.mark.parametrize("failing", ["pwrite", "partial", "fsync"])
def test_full_disk_releases_nothing_and_leaves_the_file_as_it_was(tmp_path, key, monkeypatch, failing):
    path = tmp_path / "ledger.jsonl"
    with Ledger.create(path, make_header(), key) as ledger:
        ledger.charge(make_event(0))
        before, spent = path.read_bytes(), ledger.spent()
        real, failed = os.pwrite, []

        def no_space(descriptor, data, offset):
            if failing == "partial" and not failed:
                failed.append(1)
                return real(descriptor, data[:40], offset)
            raise OSError(errno.ENOSPC, "No space left on device")

        def no_sync(descriptor):
            if not failed:
                failed.append(1)
                raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            if failing == "fsync":
                patch.setattr(os, "fsync", no_sync)
            else:
                patch.setattr(os, "pwrite", no_space)
            with pytest.raises(MmfedError, match="nothing was released") as caught:
                ledger.charge(make_event(1))
        assert caught.value.code == ExitCode.STORAGE
        assert path.read_bytes() == before
        assert ledger.spent() == spent
        assert ledger.charge(make_event(1)) == 2
    with Ledger.open(path, key) as ledger:
        assert len(ledger.accountant_releases()) == 2


def test_a_charge_that_cannot_be_taken_back_closes_the_ledger(tmp_path, key, monkeypatch):
    path = tmp_path / "ledger.jsonl"
    with Ledger.create(path, make_header(), key) as ledger:

        def broken(*arguments):
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", broken)
            patch.setattr(os, "ftruncate", broken)
            with pytest.raises(MmfedError, match="nothing was released"):
                ledger.charge(make_event(0))
        with pytest.raises(MmfedError, match="closed"):
            ledger.charge(make_event(0))
    with Ledger.open(path, key) as ledger:  # the line did reach the file: it counts as spent
        assert len(ledger.accountant_releases()) == 1


def test_torn_last_line_is_cut_at_every_position(tmp_path, key):
    whole = tmp_path / "whole.jsonl"
    with Ledger.create(whole, make_header(), key) as ledger:
        ledger.charge(make_event(0))
        keep = whole.stat().st_size
        ledger.charge(make_event(1))
    data = whole.read_bytes()
    torn = tmp_path / "torn.jsonl"
    for size in (*range(keep, len(data) - 60, 13), *range(len(data) - 60, len(data) - 1)):
        torn.write_bytes(data[:size])
        with Ledger.open(torn, key) as ledger:
            assert len(ledger.accountant_releases()) == 1
        assert torn.read_bytes() == data[:keep]
    torn.write_bytes(data[:-1])  # only the newline is missing: a reserved charge counts as spent
    with Ledger.open(torn, key) as ledger:
        assert len(ledger.accountant_releases()) == 2
    assert torn.read_bytes() == data


def test_a_torn_header_is_no_ledger(tmp_path, honest_ledger, key):
    torn = tmp_path / "torn.jsonl"
    for size in (0, 1, 50):
        torn.write_bytes(honest_ledger(f"h{size}").read_bytes()[:size])
        with pytest.raises(MmfedError) as caught:
            Ledger.open(torn, key)
        assert caught.value.code == ExitCode.AUDIT


@pytest.mark.parametrize("line", range(8))
def test_damage_anywhere_stops_the_run_and_names_the_line(honest_ledger, key, line):
    path = honest_ledger()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b'"index"', b'"iNdex"', 1)
    path.write_bytes(b"".join(lines))
    with pytest.raises(MmfedError, match=f"line {line + 1}:") as caught:
        Ledger.open(path, key)
    assert caught.value.code == ExitCode.AUDIT
    assert path.read_bytes() == b"".join(lines)


def test_a_complete_damaged_last_line_is_not_taken_for_a_torn_one(honest_ledger, key):
    path = honest_ledger()
    path.write_bytes(path.read_bytes()[:-40] + b"\n")
    with pytest.raises(MmfedError, match="line 8"):
        Ledger.open(path, key)


def test_another_key_cannot_continue(honest_ledger):
    with pytest.raises(MmfedError, match="public_key is not the expected one"):
        Ledger.open(honest_ledger(), make_key(2))


def test_a_second_writer_is_refused_and_the_lock_ends_with_close(honest_ledger, key):
    path = honest_ledger()
    with Ledger.open(path, key):
        with pytest.raises(MmfedError, match="another process is writing") as caught:
            Ledger.open(path, key)
        assert caught.value.code == ExitCode.STORAGE
    Ledger.open(path, key).close()


def test_closed_ledger_charges_nothing(honest_ledger, key):
    ledger = Ledger.open(honest_ledger(), key)
    ledger.close()
    with pytest.raises(MmfedError, match="closed"):
        ledger.charge(make_event(9))


def test_create_never_overwrites(honest_ledger, key):
    path = honest_ledger()
    before = path.read_bytes()
    with pytest.raises(MmfedError, match="exists already"):
        Ledger.create(path, make_header(), key)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_resume_creates_then_continues_and_refuses_a_changed_promise(tmp_path, key):
    path = tmp_path / "run" / "ledger.jsonl"
    with Ledger.resume(path, make_header(), key) as ledger:
        ledger.charge(make_event(0))
    with Ledger.resume(path, make_header(code_version="0.2.0", lock_hash="1" * 64), key) as ledger:
        assert len(ledger.accountant_releases()) == 1
    for change in ({"delta": 1e-5}, {"target_epsilon": 100.0}, {"unit": "one window"}, {"population": 2000}):
        with pytest.raises(MmfedError, match=f"{next(iter(change))} was") as caught:
            Ledger.resume(path, make_header(**change), key)
        assert caught.value.code == ExitCode.PRIVACY
    Ledger.resume(path, make_header(), key).close()


def test_a_release_without_a_finite_epsilon_is_not_charged(tmp_path, key, monkeypatch):
    with Ledger.create(tmp_path / "l", make_header(), key) as ledger:
        monkeypatch.setattr(
            ledger.accountant, "epsilon_after", lambda release, **_: EpsilonEstimate(np.inf, "rdp", 1e-4)
        )
        with pytest.raises(MmfedError, match="no finite epsilon"):
            ledger.charge(make_event(0))
        assert len(ledger.events) == 1


def test_refusals_are_kept_and_cost_nothing(tmp_path, key):
    with Ledger.create(tmp_path / "l", make_header(), key) as ledger:
        assert ledger.refuse("budget exhausted", by="device", round_number=4) == 1
        assert ledger.spent().value == 0
        assert ledger.events[-1].body == {"reason": "budget exhausted", "by": "device", "round": 4}


def test_record_mode_counts_steps(tmp_path, key):
    guarantee = guarantee_for("record", epsilon=4, population=30, delta=1e-5, window=10)
    header = header_for(
        guarantee, run_id="r", population=30, population_basis="windows", target_epsilon=4.0, noise_source="csprng"
    )
    path = tmp_path / "device.jsonl"
    with Ledger.create(path, header, key) as ledger:
        changes = {"mechanism": "dp-sgd", "noise_added_by": "device", "sampling": "poisson", "sampling_rate": 1 / 3}
        for number in range(3):
            ledger.charge(make_event(number, steps=10, noise_multiplier=3.0, **changes))
        assert ledger.spent().value == pytest.approx(2.74, abs=0.005)
    with Ledger.open(path, key) as ledger:
        assert ledger.spent().value == pytest.approx(2.74, abs=0.005)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"noise_multiplier": float("nan")}, "noise_multiplier"),
        ({"sampling": "poisson", "sampling_rate": 0.0}, "sampling_rate"),
        ({"sampling_rate": 0.5}, "full participation"),
        ({"steps": 0}, "count"),
        ({"planned_cohort": 0}, "planned_cohort"),
        ({"realised_cohort": -1}, "below 0"),
        ({"dropouts": -1}, "below 0"),
        ({"result_hash": "xyz"}, "result_hash"),
        ({"result_hash": "A" * 64}, "result_hash"),
        ({"sampling": "shuffle"}, "sampling"),
    ],
)
def test_events_are_checked_before_they_are_written(change, match):
    with pytest.raises(MmfedError, match=match):
        make_event(0, **change)


def test_result_hash_depends_on_values_shape_and_type():
    array = np.arange(6.0)
    others = [array.reshape(2, 3), array.astype(np.float32), array + 1e-15 * np.arange(6), array[:5], -array]
    hashes = [result_hash(array), *(result_hash(other) for other in others)]
    assert len(set(hashes)) == len(hashes)
    assert result_hash(array) == result_hash(array.copy())


def test_header_records_the_code_that_runs():
    header = header_for(
        guarantee_for("user-central", epsilon=1, population=50),
        run_id="r", population=50, population_basis="enrolled", target_epsilon=1.0, noise_source="seeded",
    )  # fmt: skip
    assert len(header.lock_hash) == 64
    assert header.code_version not in ("", "unknown")


def test_a_ledger_written_by_other_means_opens(tmp_path, honest_ledger, key):
    with Ledger.open(honest_ledger(), key) as ledger:
        entries = [(event.kind, event.body) for event in ledger.events]
        copy = write_chain(tmp_path / "copy.jsonl", entries, key)
        assert copy.read_bytes() == ledger.path.read_bytes()


WRITER = """
import sys, pathlib
sys.path.insert(0, sys.argv[2])
from ledger_builder import make_event, make_header, make_key
from mmfed.privacy.ledger import Ledger
ledger = Ledger.resume(pathlib.Path(sys.argv[1]), make_header(), make_key())
start = len(ledger.accountant_releases())
for number in range(start, start + 100000):
    index = ledger.charge(make_event(number, noise_multiplier=1000.0))
    sys.stdout.write(f"{index}\\n")
    sys.stdout.flush()
"""


@pytest.mark.slow
def test_no_acknowledged_charge_is_lost_when_the_writer_is_killed(tmp_path, key):
    path, acknowledged = tmp_path / "ledger.jsonl", 0
    for lines in itertools.accumulate((3, 40, 17)):
        command = [sys.executable, "-c", WRITER, str(path), os.path.dirname(__file__)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            for _ in range(lines):
                acknowledged = max(acknowledged, int(writer.stdout.readline()))
            os.kill(writer.pid, signal.SIGKILL)
            rest = [int(line) for line in writer.stdout if line.endswith("\n")]
            acknowledged = max([acknowledged, *rest])
        with Ledger.open(path, key) as ledger:
            assert ledger.head.index >= acknowledged


def test_public_names():
    assert {"Ledger", "LedgerHeader", "ReleaseEvent", "header_for", "result_hash"} <= set(ledger_module.__all__)
