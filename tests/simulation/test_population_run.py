"""A run on a population on disk: the model of a run in memory, also after a kill in the middle of a round."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmfed.config import Config, build_config
from mmfed.data.demo_synth import synthesise
from mmfed.evaluation.ranking import evaluate_ranking
from mmfed.federated.device_store import DeviceStore
from mmfed.federated.progress import chosen_model
from mmfed.federated.workspace import load_workspace
from mmfed.records import RunFolder
from mmfed.simulation.run import RunResult, simulate

SETTINGS = [
    "data.source=table",
    "features.modalities=[]",
    "model.name=mf",
    "model.history=0",
    "model.private_user_vector=true",
    "model.dimensions=8",
    "training.objective=bce",
    "training.negatives=2",
    "training.auxiliary_weight=0",
    "privacy.mode=none",
    "federation.rounds=3",
    "federation.cohort=60",
    "federation.nodes=2",
    "evaluation.bootstrap=0",
    "evaluation.users=25",
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("population") / "shop"
    synthesise(folder, users=120, seed=0, items=60)
    return folder


def settings(shop: Path, name: str, *more: str) -> list[str]:
    runs, cache = shop.parent / "runs", shop.parent / "cache"
    return [
        *SETTINGS, f"data.path={shop}", f"run.folder={runs}", f"features.cache={cache}", f"run.name={name}",
        "data.on_disk=always", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def on_disk(shop: Path) -> tuple[Config, RunResult]:
    config = build_config({}, settings(shop, "disk"))
    return config, simulate(config)


def learned(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Shared parameters, and the private vectors of both nodes."""
    run = RunFolder(config.run.folder / config.run.name)
    parameters, _ = chosen_model(run, config)
    stores = [DeviceStore(run.devices / f, users=60, dimensions=8) for f in stored_vectors(run)]
    private = np.concatenate([store.before(np.arange(60), 99) for store in stores])
    return np.concatenate([parameters[name].numpy().ravel() for name in sorted(parameters)]), private


def stored_vectors(run: RunFolder) -> list[Path]:
    found = sorted(path.relative_to(run.devices) for path in run.devices.glob("*/node-*/vectors"))
    assert len(found) == 2
    return found


def test_same_model_as_in_memory(shop: Path, on_disk: tuple[Config, RunResult]) -> None:
    memory = build_config({}, settings(shop, "memory", "data.on_disk=never"))
    result = simulate(memory)
    for one, other in zip(learned(on_disk[0]), learned(memory), strict=True):
        assert np.linalg.norm(one - other) <= 1e-6 * np.linalg.norm(other)
        assert np.linalg.norm(other) > 0
    assert on_disk[1].results["methods"] == result.results["methods"]


def test_a_sample_of_users_is_said_and_is_part_of_everyone(shop: Path, on_disk: tuple[Config, RunResult]) -> None:
    config, result = on_disk
    workspace = load_workspace(config)
    everyone = int((workspace.split.test.lengths > 0).sum())
    assert everyone > 25
    told = f"test figures of 25 users drawn at random (seeded) from {everyone} (evaluation.users)"
    assert told in result.results["notes"]
    assert result.federated.result.users == 25

    def score(users: np.ndarray) -> np.ndarray:
        return np.random.default_rng(3).random((120, 60))[users]

    def figures(users: np.ndarray | None, history: object) -> dict[int, float]:
        found = evaluate_ranking(
            score,
            history=history,  # type: ignore[arg-type]
            targets=workspace.split.test,
            item_count=60,
            train_counts=workspace.split.train.rows_per_item(),
            users=users,
        )
        assert found.users_left_out == 120 - everyone
        return dict(zip(found.evaluated_users.tolist(), found.per_user["ndcg@10"].tolist(), strict=True))

    sample = workspace.evaluated(workspace.split.test)
    assert sample is not None
    some, whole = figures(sample, workspace.before_test), figures(None, workspace.split.before_test)
    assert some == {user: whole[user] for user in sample.tolist()}
    other = load_workspace(build_config({}, settings(shop, "other", "run.seed=5")))
    assert set(other.evaluated(other.split.test).tolist()) != set(sample.tolist())  # type: ignore[union-attr]


KILLED = """
import json, os, signal, sys
import numpy
from mmfed.config import build_config
from mmfed.simulation.run import simulate
calls, at, flush = 0, int(sys.argv[2]), numpy.memmap.flush
def dying(self):
    global calls
    calls += 1
    if calls == at:
        os.kill(os.getpid(), signal.SIGKILL)
    flush(self)
numpy.memmap.flush = dying
simulate(build_config({}, json.loads(sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.parametrize("at", [8, 10, 12])
def test_killed_in_the_middle_of_a_round(shop: Path, on_disk: tuple[Config, RunResult], at: int) -> None:
    """A node flushes three times a round: the second round of the first node, and of the second one, and after."""
    given = settings(shop, f"killed-{at}")
    command = [sys.executable, "-c", KILLED, json.dumps(given), str(at)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    config = build_config({}, given)
    simulate(config, resume=True)
    for one, other in zip(learned(config), learned(on_disk[0]), strict=True):
        np.testing.assert_array_equal(one, other)
