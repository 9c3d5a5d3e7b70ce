"""The vault: what is on the disk, what is refused, and what survives a kill."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy import vault as vault_module
from mmfed.privacy.key_source import KeyFile, PassphraseFile, key_source
from mmfed.privacy.sealing import BrokenSealError
from mmfed.privacy.vault import KEYS_FILE, MOST_SEALS, RESERVE, Vault
from mmfed.privacy.wrapped_keys import WrappedKeys

RECORDS = {f"run/node-0-of-1/vectors/{number}": f"private {number}".encode() * 9 for number in range(12)}


def opened(folder: Path, setting: str | None = None, *, create: bool = True) -> Vault:
    return Vault(folder, key_source(setting, folder), create=create)


def filled(folder: Path) -> Vault:
    vault = opened(folder)
    for name, data in RECORDS.items():
        vault.write(name, data)
    return vault


def all_of(vault: Vault) -> dict[str, bytes | None]:
    return {name: vault.read(name) for name in vault.names()}


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def phrase(path: Path, text: str = "five random words are enough") -> str:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return f"passphrase-file:{path}"


def test_records_come_back_also_after_opening_anew(tmp_path: Path) -> None:
    vault = filled(tmp_path)
    assert vault.read("none/such") is None
    vault.write("run/node-0-of-1/vectors/0", b"")
    assert all_of(opened(tmp_path)) == RECORDS | {"run/node-0-of-1/vectors/0": b""}
    assert list(vault.names("run/node-0-of-1")) == sorted(RECORDS)
    assert list(vault.names("elsewhere")) == []


def test_nothing_in_clear_and_all_for_the_owner_alone(tmp_path: Path) -> None:
    filled(tmp_path / "state")
    held = on_disk(tmp_path)
    assert b"mmfedseal" in held
    assert b"private" not in held
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or path.stat().st_mode & 0o077 == 0, path


def test_the_data_key_is_not_on_the_disk(tmp_path: Path) -> None:
    vault = filled(tmp_path)
    held = on_disk(tmp_path)
    assert vault._keys[0].secret not in held
    assert vault._keys[0].secret.hex().encode() not in held


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../b", "a//b", "a/", ".a", "a\n", "ä", "a b"])
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no name of a record"):
        opened(tmp_path).write(name, b"")


def test_swapped_records_are_refused_by_name(tmp_path: Path) -> None:
    vault = filled(tmp_path)
    first, second, *_ = RECORDS
    vault.path(first).rename(tmp_path / "aside")
    vault.path(second).rename(vault.path(first))
    (tmp_path / "aside").rename(vault.path(second))
    for name in (first, second):
        with pytest.raises(BrokenSealError, match="swapped or renamed") as caught:
            vault.read(name)
        assert str(vault.path(name)) in caught.value.message


def test_a_record_of_another_device_is_refused(tmp_path: Path) -> None:
    mine, theirs = filled(tmp_path / "mine"), filled(tmp_path / "theirs")
    name = next(iter(RECORDS))
    mine.path(name).write_bytes(theirs.path(name).read_bytes())
    with pytest.raises(BrokenSealError, match="another device"):
        mine.read(name)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_changed_byte_of_the_wrapped_keys_is_noticed(tmp_path_factory, choose: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("vault")
    opened(folder).write("a", b"private")
    original = (folder / KEYS_FILE).read_bytes()
    content = bytearray(original)
    position = choose.draw(st.integers(0, len(content) - 2))  # the last byte is a line break
    content[position] ^= choose.draw(st.integers(1, 255))
    (folder / KEYS_FILE).write_bytes(content)
    if json_or_none(bytes(content)) == json_or_none(original):  # white space between the values
        assert opened(folder).read("a") == b"private"
        return
    with pytest.raises(MmfedError, match="damaged or cut off") as caught:
        opened(folder)
    assert caught.value.code is ExitCode.STORAGE
    assert str(folder / KEYS_FILE) in caught.value.message


def test_values_changed_with_their_checksum_are_noticed_too(tmp_path: Path) -> None:
    """By the wrapping's own tag: the checksum stops damage, not people."""
    opened(tmp_path).write("a", b"private")
    keys = WrappedKeys.read(tmp_path / KEYS_FILE)
    other = "0" * 32
    for changed in (
        replace(keys, vault="00"),
        replace(keys, derivation=keys.derivation | {"salt": other}),
        replace(keys, derivation=keys.derivation | {"kdf": "none"}),
        replace(keys, derivation=keys.derivation | {"more": 1}),
        replace(keys, keys=(replace(keys.keys[0], id=other),)),
        replace(keys, keys=(replace(keys.keys[0], nonce=other[:24]),)),
        replace(keys, keys=(replace(keys.keys[0], wrapped="zz"),)),
        replace(keys, keys=()),
    ):
        changed.write(tmp_path / KEYS_FILE)
        with pytest.raises(MmfedError, match="this key does not open the vault"):
            opened(tmp_path)


def test_cut_off_wrapped_keys(tmp_path: Path) -> None:
    filled(tmp_path)
    content = (tmp_path / KEYS_FILE).read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 3):
        (tmp_path / KEYS_FILE).write_bytes(content[:length])
        with pytest.raises(MmfedError, match="damaged or cut off"):
            opened(tmp_path)
    (tmp_path / KEYS_FILE).write_bytes(content)
    assert all_of(opened(tmp_path)) == RECORDS


def test_no_new_vault_over_records_whose_keys_are_gone(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / KEYS_FILE).unlink()
    with pytest.raises(MmfedError, match="wrapped keys of this vault are gone"):
        opened(tmp_path)
    assert not (tmp_path / KEYS_FILE).exists()
    with pytest.raises(MmfedError, match="are gone"):
        opened(tmp_path / "nowhere", create=False)
    assert not (tmp_path / "nowhere").exists()


def test_a_missing_key_or_another_one(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "vault.key").rename(tmp_path / "aside")
    with pytest.raises(MmfedError, match="cannot be read"):
        opened(tmp_path)
    KeyFile(tmp_path / "vault.key").create("v")
    with pytest.raises(MmfedError, match="this key does not open"):
        opened(tmp_path)
    (tmp_path / "aside").rename(tmp_path / "vault.key")
    assert all_of(opened(tmp_path)) == RECORDS


def test_a_wrong_passphrase_and_another_kind_of_secret(tmp_path: Path) -> None:
    folder, setting = tmp_path / "state", phrase(tmp_path / "p")
    opened(folder, setting).write("a", b"private")
    assert opened(folder, setting).read("a") == b"private"
    phrase(tmp_path / "p", "not the passphrase it was")
    with pytest.raises(MmfedError, match="this passphrase does not open"):
        opened(folder, setting)
    with pytest.raises(MmfedError, match="sealed with a passphrase, and the vault setting names a key-file"):
        opened(folder)


def test_all_processes_that_ask_get_the_same(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    assert first.read_or_write("key", lambda: b"one") == b"one"
    assert second.read_or_write("key", lambda: b"two") == b"one"


def test_seals_are_counted_before_they_are_made(tmp_path: Path) -> None:
    vault = opened(tmp_path)
    for _ in range(RESERVE + 1):
        vault._count()
    assert WrappedKeys.read(tmp_path / KEYS_FILE).keys[0].seals == 2 * RESERVE
    keys = WrappedKeys.read(tmp_path / KEYS_FILE)
    replace(keys, keys=(replace(keys.keys[0], seals=MOST_SEALS - RESERVE),)).write(tmp_path / KEYS_FILE)
    vault = opened(tmp_path)
    vault.write("a", b"the last block")
    vault = opened(tmp_path)
    with pytest.raises(MmfedError, match="as much as one key may") as caught:
        vault.write("b", b"")
    assert "mmfed device rotate" in caught.value.fix
    vault.rotate()
    vault.write("b", b"")
    assert all_of(opened(tmp_path)) == {"a": b"the last block", "b": b""}


def test_rotation_leaves_nothing_the_old_keys_open(tmp_path: Path) -> None:
    vault = filled(tmp_path)
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    sealed = {name: vault.path(name).read_bytes() for name in RECORDS}
    assert vault.rotate() == len(RECORDS)
    assert all_of(vault) == RECORDS == all_of(opened(tmp_path))
    keys = WrappedKeys.read(tmp_path / KEYS_FILE)
    assert [key.seals for key in keys.keys] == [len(RECORDS)]
    assert all(vault.path(name).read_bytes() != sealed[name] for name in RECORDS)
    (tmp_path / KEYS_FILE).write_bytes(old[KEYS_FILE])
    with pytest.raises(MmfedError, match="this key does not open"):
        opened(tmp_path)
    (tmp_path / "vault.key").write_bytes(old["vault.key"])
    with pytest.raises(BrokenSealError, match="an older one"):
        opened(tmp_path).read(next(iter(RECORDS)))


def test_rewrapping_reseals_nothing(tmp_path: Path) -> None:
    vault = filled(tmp_path / "state")
    sealed = {name: vault.path(name).read_bytes() for name in RECORDS}
    setting = phrase(tmp_path / "p")
    assert vault.rotate(data_key=False, to=key_source(setting, tmp_path)) == 0
    assert all(vault.path(name).read_bytes() == sealed[name] for name in RECORDS)
    assert not (tmp_path / "state" / "vault.key").exists(), "the key that lay there opens nothing any more"
    assert all_of(opened(tmp_path / "state", setting)) == RECORDS
    vault.rotate(data_key=False, to=KeyFile(tmp_path / "elsewhere"))
    assert all_of(opened(tmp_path / "state", f"key-file:{tmp_path / 'elsewhere'}")) == RECORDS
    assert PassphraseFile(tmp_path / "p").path.exists(), "a file that a person named stays"


def test_a_process_that_is_open_follows_a_rotation(tmp_path: Path) -> None:
    mine, theirs = filled(tmp_path), opened(tmp_path)
    theirs.rotate()
    assert all_of(mine) == RECORDS
    mine.write("new", b"1")
    theirs.rotate()
    mine.write("newer", b"2")
    assert all_of(opened(tmp_path)) == RECORDS | {"new": b"1", "newer": b"2"}


def test_a_damaged_record_stops_a_rotation_and_loses_no_other(tmp_path: Path) -> None:
    vault = filled(tmp_path)
    damaged = sorted(RECORDS)[5]
    content = vault.path(damaged).read_bytes()
    vault.path(damaged).write_bytes(content[:-1])
    with pytest.raises(BrokenSealError, match="cut off"):
        vault.rotate()
    again = opened(tmp_path)
    assert {name: again.read(name) for name in RECORDS if name != damaged} == {
        name: data for name, data in RECORDS.items() if name != damaged
    }
    vault.path(damaged).write_bytes(content)
    again.rotate()
    assert all_of(opened(tmp_path)) == RECORDS
    assert len(WrappedKeys.read(tmp_path / KEYS_FILE).keys) == 1


def json_or_none(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None


class KilledError(BaseException):
    """Stands for the death of the process."""


@pytest.mark.parametrize("to", [None, "elsewhere"])
def test_killed_at_every_durable_step_of_a_rotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str | None
) -> None:
    """The old or the new secret opens it, and reads everything; another rotation ends the work."""
    for step in range(40):
        folder, calls = tmp_path / f"state{step}", 0
        vault = filled(folder)
        target = None if to is None else KeyFile(tmp_path / f"{to}{step}")

        def dying(*arguments: object, _original=os.replace, _step=step) -> None:
            nonlocal calls
            calls += 1
            if calls > _step:
                raise KilledError
            _original(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "replace", dying)
        try:
            vault.rotate(to=target)
            killed = False
        except KilledError:
            killed = True
        monkeypatch.undo()
        try:
            again = opened(folder)
        except MmfedError:
            assert target is not None
            again = Vault(folder, target)
        assert all_of(again) == RECORDS, step
        again.write("new", b"1")
        again.rotate()
        assert all_of(again) == RECORDS | {"new": b"1"}
        if not killed:
            assert step > len(RECORDS)
            return
    raise AssertionError("the rotation never ended")


def write_and_rotate(folder: Path, seed: int) -> None:
    """Work until killed; every number is written only after the one before it is on disk."""
    generator, vault, number = random.Random(seed), opened(folder), 0
    while True:
        number += 1
        vault.write(f"many/{number % 7}", str(number).encode())
        vault.rotate(data_key=generator.random() < 0.7)
        os.write(1, f"{number}\n".encode())


def test_killed_for_real_again_and_again(tmp_path: Path) -> None:
    filled(tmp_path)
    generator = random.Random(0)
    for round_ in range(12):
        inlet, outlet = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.dup2(outlet, 1)
                write_and_rotate(tmp_path, round_)
            finally:
                os._exit(1)
        os.close(outlet)
        time.sleep(0.02 + generator.random() * 0.15)
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        with os.fdopen(inlet, "rb") as told:
            done = len(told.read().split())
        vault = opened(tmp_path)
        held = all_of(vault)
        assert {name: held[name] for name in RECORDS} == RECORDS
        numbers = [int(data or b"0") for name, data in held.items() if name.startswith("many/")]
        assert not done or max(numbers) >= done
    opened(tmp_path).rotate()
    assert len(WrappedKeys.read(tmp_path / KEYS_FILE).keys) == 1
    assert vault_module.half_written(tmp_path) == []


def test_threads_that_write_while_another_rotates(tmp_path: Path) -> None:
    vaults = [opened(tmp_path) for _ in range(3)]
    faults: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(20):
                vaults[number].write(f"t{number}/{step}", f"{number} {step}".encode())
                if number == 0:
                    vaults[0].rotate(data_key=step % 2 == 0)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    expected = {f"t{number}/{step}": f"{number} {step}".encode() for number in range(3) for step in range(20)}
    assert all_of(opened(tmp_path)) == expected


def test_importing_mmfed_loads_no_cryptography() -> None:
    script = "import sys, mmfed, mmfed.privacy.vault; sys.exit('cryptography' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", script]) == 0
