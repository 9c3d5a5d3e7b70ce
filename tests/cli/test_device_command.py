"""``mmfed device``: what is told, and that nothing goes without --yes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_shop import Command

from mmfed.errors import ExitCode
from mmfed.privacy.key_source import key_source
from mmfed.privacy.vault import Vault

NAMES = [f"run-1/node-0-of-1/vectors/{user:09d}" for user in range(3)]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Three users' vectors, an encoding, a signing key and a ledger."""
    folder = tmp_path / "state"
    vault = Vault(folder, key_source(None, folder))
    for name in (*NAMES, "run-1/node-0-of-1/vectors/shape", "own-content/text-x-0/000000000"):
        vault.write(name, b"private")
    ledgers = folder / "run-1/node-0-of-1/ledgers"
    ledgers.mkdir()
    (ledgers / "00.jsonl").write_text("{}\n")
    return folder


def read(state: Path, setting: str | None = None) -> list[bytes | None]:
    vault = Vault(state, key_source(setting, state), create=False)
    return [vault.read(name) for name in NAMES]


def test_show(state: Path, mmfed: Command) -> None:
    told = mmfed("device", "show", str(state)).out
    assert "a vault, opened by a key-file" in told
    assert "vectors of 3 users sealed, 1 ledgers" in told
    assert "encoded own content: 1 sealed records" in told
    assert "CLEAR" not in told
    (state / "run-1/node-0-of-1/key.pem").write_text("key")
    assert "1 private files IN CLEAR" in mmfed("device", "show", str(state)).out
    tree = json.loads(mmfed("device", "show", str(state), "--format", "json").out)
    assert (tree["sealed"], tree["source"], tree["runs"][0]["sealed_users"]) == (False, "key-file", 3)


def test_rotate(state: Path, mmfed: Command) -> None:
    before = [path.read_bytes() for path in sorted(state.rglob("*.sealed"))]
    outcome = mmfed("device", "rotate", str(state))
    assert outcome.code == 0
    assert "5 records sealed again" in outcome.out
    assert read(state) == [b"private"] * 3
    after = [path.read_bytes() for path in sorted(state.rglob("*.sealed"))]
    assert not set(before) & set(after)
    assert "wrapped anew" in mmfed("device", "rotate", str(state), "--wrapping-only").out
    assert [path.read_bytes() for path in sorted(state.rglob("*.sealed"))] == after
    assert json.loads(mmfed("device", "rotate", str(state), "--format", "json").out)["sealed_again"] == 5


def test_rotate_to_a_passphrase(state: Path, tmp_path: Path, mmfed: Command) -> None:
    (tmp_path / "phrase").write_text("five random words are enough\n")
    (tmp_path / "phrase").chmod(0o600)
    setting = f"passphrase-file:{tmp_path / 'phrase'}"
    outcome = mmfed("device", "rotate", str(state), "--to", setting)
    assert outcome.code == 0
    assert f'vault = "{setting}"' in outcome.out
    assert read(state, setting) == [b"private"] * 3
    refused = mmfed("device", "rotate", str(state))
    assert refused.code == ExitCode.STORAGE
    assert "sealed with a passphrase" in refused.err
    assert mmfed("device", "rotate", str(state), "--vault", setting).code == 0
    assert mmfed("device", "rotate", str(state), "--vault", "passphrase").code == ExitCode.CONFIG


def test_forget(state: Path, mmfed: Command) -> None:
    refused = mmfed("device", "forget", str(state))
    assert refused.code == ExitCode.USAGE
    assert "--yes" in refused.err
    assert read(state) == [b"private"] * 3
    outcome = mmfed("device", "forget", str(state), "--yes")
    assert outcome.code == 0
    assert "the wrapped data key is destroyed; 5 private files" in outcome.out
    assert "1 ledgers stay" in outcome.out
    assert "kept elsewhere" not in outcome.out
    assert {path.name for path in state.rglob("*") if path.is_file()} == {"00.jsonl", "vault.lock"}
    again = json.loads(mmfed("device", "forget", str(state), "--yes", "--format", "json").out)
    assert (again["keys"], again["files"], again["ledgers"]) == (False, 0, 1)


def test_forget_tells_of_a_key_kept_elsewhere(state: Path, tmp_path: Path, mmfed: Command) -> None:
    assert mmfed("device", "rotate", str(state), "--to", f"key-file:{tmp_path / 'k'}").code == 0
    assert "The key-file that opened the vault is kept elsewhere" in mmfed("device", "forget", str(state), "--yes").out
    assert (tmp_path / "k").exists()


@pytest.mark.parametrize("command", [["show"], ["forget", "--yes"], ["forget"], ["rotate"]])
def test_a_folder_that_is_none(tmp_path: Path, mmfed: Command, command: list[str]) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "key.pem").write_text("mine")
    for folder in (tmp_path / "home", tmp_path / "nowhere", tmp_path / "home" / "key.pem"):
        outcome = mmfed("device", command[0], str(folder), *command[1:])
        assert outcome.code == ExitCode.STORAGE, outcome.err
        assert outcome.err.startswith("error: ")
    assert [path.name for path in tmp_path.rglob("*")] == ["home", "key.pem"]


def test_damaged_keys_do_not_keep_from_forgetting(state: Path, mmfed: Command) -> None:
    (state / "vault.json").write_text("{}")
    assert mmfed("device", "show", str(state)).code == ExitCode.STORAGE
    assert mmfed("device", "rotate", str(state)).code == ExitCode.STORAGE
    assert mmfed("device", "forget", str(state), "--yes").code == 0
    assert not list(state.rglob("*.sealed"))
