"""A run killed at any instant and started again ends as the run that was left alone; no ledger loses a line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_shop import write_tiny_shop

from mmfed.config import Config, build_config
from mmfed.federated.checkpoint import load_checkpoint
from mmfed.federated.progress import LATEST
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.keys import load_or_create_key
from mmfed.records import RunFolder, read_lines
from mmfed.simulation.run import device_ledgers

pytestmark = pytest.mark.slow
DRIVER = Path(__file__).with_name("killed_runs.py")
MODES = {
    "user-central": ["privacy.mode=user-central", "model.private_user_vector=true"],
    "record": ["privacy.mode=record"],
    "none": ["privacy.mode=none"],
}


def demo(folder: Path, mode: str) -> list[str]:
    """Eight rounds of the demo shop with Poisson cohorts."""
    return [
        "data.users=60",
        'features.modalities=["attributes"]',
        f"features.cache={folder / 'features'}",
        "model.dimensions=8",
        "training.positions=8",
        "training.pretraining=5",
        "federation.rounds=8",
        "federation.cohort=20",
        "privacy.epsilon=none",
        "privacy.noise_multiplier=1.5",
        "evaluation.every=2",
        "evaluation.bootstrap=20",
        f"run.folder={folder / 'runs'}",
        *MODES[mode],
    ]


def tiny(folder: Path, *more: str) -> list[str]:
    """Three rounds of the tiny shop, validated every round so that the best model is kept as well."""
    write_tiny_shop(folder / "shop")
    return [
        "data.source=table",
        f"data.path={folder / 'shop'}",
        'features.modalities=["attributes"]',
        f"features.cache={folder / 'features'}",
        "model.dimensions=6",
        "training.positions=4",
        "training.pretraining=5",
        "federation.rounds=3",
        "federation.cohort=6",
        "federation.nodes=2",
        "privacy.epsilon=none",
        "privacy.noise_multiplier=1.5",
        "evaluation.every=1",
        "evaluation.bootstrap=20",
        "evaluation.k=[10]",
        f"run.folder={folder / 'runs'}",
        *more,
    ]


def killed(overrides: list[str], how: str, count: int) -> tuple[Config, dict[str, int]]:
    """Kill and resume in another process; how often each run was killed."""
    done = subprocess.run(
        [sys.executable, str(DRIVER), json.dumps(overrides), how, str(count)],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return build_config({}, overrides), json.loads(done.stdout)


def model_of(run: RunFolder) -> dict[str, bytes]:
    """The bytes of the model and of the optimiser after the last round."""
    tensors, _ = load_checkpoint(run.checkpoints / LATEST, load_or_create_key(run.path / "key.pem"))
    return {name: value.contiguous().numpy().tobytes() for name, value in tensors.items()}


def vectors_of(run: RunFolder) -> dict[str, bytes]:
    """The private vectors that count: of each user, those of the newest round."""
    found = {}
    for folder in run.devices.glob("*/node-*/vectors"):
        rounds = np.fromfile(folder / "rounds.i64", dtype=np.int64).reshape(-1, 2)
        vectors = np.fromfile(folder / "vectors.f32", dtype=np.float32).reshape(len(rounds), 2, -1)
        newest = vectors[np.arange(len(rounds)), rounds.argmax(1)]
        found[folder.parent.name] = newest.tobytes() + rounds.max(1).tobytes()
    return found


def ledgers_of(run: RunFolder) -> dict[str, Path]:
    return {path.name: path for path in [run.ledger, *device_ledgers(run)] if path.exists()}


def charges(path: Path) -> list[tuple[int, str, float]]:
    bodies = [line["body"] for line in read_lines(path) if line["kind"] == "release"]
    return [(body["round"], body["result_hash"], body["epsilon"]) for body in bodies]


def timeless(run: RunFolder) -> list[dict[str, object]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in read_lines(run.metrics)]


def assert_equal_to_the_whole(config: Config, names: dict[str, int]) -> None:
    folder = config.run.folder
    whole = RunFolder(folder / "whole")
    results, model, vectors = json.loads(whole.results.read_text()), model_of(whole), vectors_of(whole)
    for name in names:
        run = RunFolder(folder / name)
        found = json.loads(run.results.read_text())
        assert found | {"run": ""} == results | {"run": ""}, name
        assert model_of(run) == model, name
        assert vectors_of(run) == vectors, name
        assert timeless(run) == timeless(whole), name
        assert ledgers_of(run).keys() == ledgers_of(whole).keys()
        for ledger, path in ledgers_of(run).items():
            assert charges(path) == charges(ledgers_of(whole)[ledger]), "seeded noise: repeated bits are charged once"
        if ledgers_of(run):
            audit = audit_ledgers(list(ledgers_of(run).values()))
            assert audit.holds, audit.findings[0]


@pytest.mark.parametrize("mode", ["user-central", "record"])
def test_killed_at_random_instants(tmp_path, mode):
    config, names = killed(demo(tmp_path, mode), "random", 20)
    assert sum(names.values()) >= 20
    assert_equal_to_the_whole(config, names)


@pytest.mark.parametrize(("mode", "most"), [("user-central", 60), ("record", 25), ("none", 15)])
def test_killed_before_every_durable_step(tmp_path, mode, most):
    config, names = killed(tiny(tmp_path, *MODES[mode]), "steps", most)
    assert len(names) >= 15
    assert_equal_to_the_whole(config, names)


@pytest.mark.parametrize(("mode", "most"), [("user-central", 20), ("record", 8)])
def test_noise_that_cannot_be_drawn_again_is_charged_again(tmp_path, mode, most):
    """With secure noise a repeated round is another release: the ledger holds every one of them, never fewer."""
    config, names = killed(tiny(tmp_path, *MODES[mode], "privacy.noise_source=csprng"), "steps", most)
    assert len(names) >= most / 2
    more = 0
    for name in names:
        run = RunFolder(config.run.folder / name)
        ledgers = ledgers_of(run)
        audit = audit_ledgers(list(ledgers.values()), thorough=True)
        assert audit.holds, audit.findings[0]
        assert len(timeless(run)) == config.federation.rounds
        found = [charge for path in ledgers.values() for charge in charges(path)]
        assert len({(number, digest) for number, digest, _ in found}) == len(found)
        if mode == "user-central":
            assert {number for number, _, _ in found} == {1, 2, 3}
            assert (
                timeless(run)[-1]["epsilon"]
                == found[-1][2]
                == json.loads(run.results.read_text())["privacy"]["epsilon"]
            )
            more += len(found) - 3
        else:
            more += len(found) - sum(int(record["realised"]) for record in timeless(run))
    assert more > 0, "some kill came between a charge and its checkpoint"
