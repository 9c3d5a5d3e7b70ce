"""Passphrases, key files and keystores: what opens a vault, and what is refused."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.key_derivation import EXPANSION, STRETCHING, new_derivation, wrapping_key
from mmfed.privacy.key_source import KeyFile, Keystore, PassphraseFile, key_source, wipe
from mmfed.privacy.vault import Vault

PHRASE = "five random words are enough"


def passphrase(path: Path, text: str = PHRASE) -> PassphraseFile:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return PassphraseFile(path)


def test_settings_name_sources(tmp_path: Path) -> None:
    assert key_source(None, tmp_path) == KeyFile(tmp_path / "vault.key", kept_here=True)
    assert key_source(" key-file:/a/b ", tmp_path) == KeyFile(Path("/a/b"))
    assert key_source("passphrase-file:~/p", tmp_path) == PassphraseFile(Path.home() / "p")
    assert key_source("keystore", tmp_path) == Keystore()


@pytest.mark.parametrize("setting", ["passphrase", "key-file:", "passphrase-file: ", "keystore:x", "Key-File:/a", "/a"])
def test_other_settings_are_refused(setting: str, tmp_path: Path) -> None:
    with pytest.raises(MmfedError, match="is no place for a key") as caught:
        key_source(setting, tmp_path)
    assert caught.value.code is ExitCode.CONFIG


def test_derivations_agree_with_a_second_implementation() -> None:
    made = new_derivation("passphrase", STRETCHING)
    assert (made["n"], made["r"], made["p"]) == (2**17, 8, 1)
    salt = bytes.fromhex(made["salt"])
    expected = hashlib.scrypt(b"secret", salt=salt, n=2**17, r=8, p=1, maxmem=2**28, dklen=32)
    assert wrapping_key(b"secret", made) == expected
    made = new_derivation("key-file", EXPANSION)
    hkdf = pytest.importorskip("Crypto.Protocol.KDF").HKDF
    sha256 = pytest.importorskip("Crypto.Hash.SHA256")
    expected = hkdf(b"secret", 32, bytes.fromhex(made["salt"]), sha256, context=b"mmfed vault")
    assert wrapping_key(b"secret", made) == expected
    assert new_derivation("key-file", EXPANSION)["salt"] != made["salt"]


@pytest.mark.parametrize("cost", [{"n": 2**30}, {"r": 4096}, {"p": 10**6}, {"n": 0}, {"kdf": "md5"}])
def test_costs_that_would_exhaust_the_memory_are_refused(cost: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"scrypt|unknown"):
        wrapping_key(b"secret", new_derivation("passphrase", STRETCHING) | cost)


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_last_line_break_is_no_part_of_the_passphrase(tmp_path: Path, ending: str) -> None:
    assert passphrase(tmp_path / "p", PHRASE + ending).secrets("v") == (PHRASE.encode(),)


def test_accents_typed_in_two_ways_are_one_passphrase(tmp_path: Path) -> None:
    composed = passphrase(tmp_path / "a", "fünf zufällige Wörter").secrets("v")
    assert passphrase(tmp_path / "b", "fu\u0308nf zufa\u0308llige Wo\u0308rter").secrets("v") == composed


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "fewer than 12"), (b"short\n", "fewer than 12"), (b"\xff" * 20, "not UTF-8"), (b"x" * 9999, "too long")],
)
def test_passphrases_that_are_none(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "p").write_bytes(content)
    (tmp_path / "p").chmod(0o600)
    with pytest.raises(MmfedError, match=words):
        PassphraseFile(tmp_path / "p").secrets("v")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
def test_files_that_others_may_read_are_refused(tmp_path: Path, mode: int) -> None:
    key = KeyFile(tmp_path / "k")
    key.create("v")
    phrase = passphrase(tmp_path / "p")
    for source in (key, phrase):
        source.path.chmod(mode)
        with pytest.raises(MmfedError, match="others may read") as caught:
            source.secrets("v")
        assert caught.value.fix == f"chmod 600 {source.path}"


def test_a_key_file_is_made_once_for_its_owner(tmp_path: Path) -> None:
    key = KeyFile(tmp_path / "keys" / "k")
    key.create("v")
    assert key.path.stat().st_mode & 0o777 == 0o600
    first = key.secrets("v")
    key.create("v")
    assert key.secrets("v") == first
    assert len(first[0]) == 32
    key.renew("v", first[0])
    assert key.secrets("v")[1:] == first
    key.settle("v")
    assert len(key.secrets("v")) == 1
    assert key.secrets("v") != first


@pytest.mark.parametrize("content", [b"", b"zz\n", b"00\n", b"0" * 63, bytes(range(256))])
def test_a_key_file_with_something_else_is_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "k"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(MmfedError, match="not a key of this vault"):
        KeyFile(path).create("v")
    assert path.read_bytes() == content


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    for source in (KeyFile(tmp_path / "k"), PassphraseFile(tmp_path / "k")):
        with pytest.raises(MmfedError, match="cannot be read"):
            source.secrets("v")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(MmfedError) as caught:
        Keystore().create("v")
    assert caught.value.code is ExitCode.MISSING_EXTRA
    assert "mmfed[keystore]" in caught.value.fix


@pytest.fixture
def keystore() -> Iterator[dict[tuple[str, str], str]]:
    """A backend for keyring that keeps its passwords in memory."""
    keyring = pytest.importorskip("keyring")
    from keyring.backend import KeyringBackend
    from keyring.errors import PasswordDeleteError

    held: dict[tuple[str, str], str] = {}

    class Memory(KeyringBackend):
        priority = 1  # type: ignore[assignment]

        def get_password(self, service: str, username: str) -> str | None:
            return held.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            held[service, username] = password

        def delete_password(self, service: str, username: str) -> None:
            if held.pop((service, username), None) is None:
                raise PasswordDeleteError

    before = keyring.get_keyring()
    keyring.set_keyring(Memory())
    yield held
    keyring.set_keyring(before)


def test_a_vault_opened_by_the_keystore(tmp_path: Path, keystore: dict[tuple[str, str], str]) -> None:
    vault = Vault(tmp_path, Keystore())
    vault.write("a", b"private")
    (before,) = keystore.values()
    vault.rotate()
    (after,) = keystore.values()
    assert before != after
    assert "\n" not in after
    assert Vault(tmp_path, Keystore()).read("a") == b"private"
    keystore.clear()
    with pytest.raises(MmfedError, match="has no key of the vault"):
        Vault(tmp_path, Keystore())


def test_a_system_without_a_keystore(tmp_path: Path) -> None:
    keyring = pytest.importorskip("keyring")
    from keyring.backends.fail import Keyring

    before = keyring.get_keyring()
    keyring.set_keyring(Keyring())
    try:
        with pytest.raises(MmfedError, match="no keystore") as caught:
            Vault(tmp_path, Keystore())
        assert "passphrase-file" in caught.value.fix
    finally:
        keyring.set_keyring(before)
    assert not (tmp_path / "vault.json").exists()


def test_no_secret_in_a_fault_or_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    source = passphrase(tmp_path / "p")
    vault = Vault(tmp_path / "v", source)
    vault.write("a", b"private")
    passphrase(tmp_path / "p", "another passphrase altogether")
    with pytest.raises(MmfedError, match="this passphrase does not open") as caught:
        Vault(tmp_path / "v", source)
    told = f"{caught.value!r} {caught.value} {vault!r} {source!r} {caplog.text}"
    for secret in (PHRASE, "another passphrase", "private"):
        assert secret not in told


def test_wiping_overwrites_before_it_removes(tmp_path: Path) -> None:
    path, twin = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"private" * 1000)
    twin.hardlink_to(path)
    assert wipe(path)
    assert not path.exists()
    assert b"private" not in twin.read_bytes()
    assert len(twin.read_bytes()) == 7000
    assert not wipe(path)
    (tmp_path / "kept").write_bytes(b"kept")
    path.symlink_to(tmp_path / "kept")
    assert wipe(path)
    assert (tmp_path / "kept").read_bytes() == b"kept"
    assert not path.is_symlink()
