"""The coordinator's defences in whole runs: what arrives, what is refused, and what a hostile device still moves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from federation import Fake, federate
from flwr.app import Message

from mmfed.errors import MmfedError
from mmfed.federated import tasks, wire
from mmfed.federated.checkpoint import load_checkpoint
from mmfed.federated.workspace import load_workspace
from mmfed.privacy.keys import load_or_create_key
from mmfed.records import RunFolder, read_lines

USERS = 12
PLAIN = ("privacy.mode=none", "training.pretraining=0", "federation.server_optimiser.name=fedavg")


def forging(change) -> Fake:
    """A node whose replies' vectors are changed: ``change(vector)``."""

    def fake(message: Message, real) -> list[Message]:
        reply = real()
        found, realised = tasks.read_training_reply(reply.content)
        shapes = {name: tuple(array.shape) for name, array in found.items()}
        vector = change(wire.flatten(wire.decode(found, shapes), shapes))
        encoded = wire.encode(wire.unflatten(vector, shapes), shapes, dtype=np.float64)
        return [Message(tasks.training_reply(encoded, realised), reply_to=message)]

    return fake


def model_of(run: RunFolder) -> dict[str, np.ndarray]:
    tensors, _ = load_checkpoint(run.checkpoints / "latest.safetensors", load_or_create_key(run.path / "key.pem"))
    return {name[6:]: value.numpy() for name, value in tensors.items() if name.startswith("model.")}


def flat(model: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([model[name].ravel() for name in sorted(model)])


def updates(grid) -> list[np.ndarray]:
    found = []
    for reply in grid.received:
        if "model" in reply.content:
            arrays, _ = tasks.read_training_reply(reply.content)
            found.append(np.concatenate([array.numpy().ravel() for array in arrays.values()]))
    return found


def test_devices_keep_to_the_norm_bound_and_the_coordinator_refuses_what_is_beyond(configured) -> None:
    config = configured(*PLAIN, "defence.norm_bound=0.01", "run.name=bounded", "federation.rounds=2")
    run, grid = federate(config, nodes=USERS, fakes={3: forging(lambda vector: vector * 1.1)})
    norms = np.array([np.linalg.norm(one) for one in updates(grid)])
    assert (norms <= 0.01 * (1 + 1e-6)).sum() == 2 * (USERS - 1)  # all but the forger's
    assert norms.max() > 0.0109
    assert [one["refused_nodes"] for one in read_lines(run.metrics)] == [1, 1]
    assert [one["realised"] for one in read_lines(run.metrics)] == [USERS - 1] * 2


def test_without_a_bound_one_device_decides(configured) -> None:
    """What the bound is for."""
    runs = [
        federate(configured(*PLAIN, *more, f"run.name=r{number}", "federation.rounds=1"), nodes=USERS, fakes=fakes)[0]
        for number, (more, fakes) in enumerate(
            [
                ((), {}),
                ((), {3: forging(lambda vector: vector * 1e6)}),
                (("defence.norm_bound=0.01",), {}),
                (("defence.norm_bound=0.01",), {3: forging(lambda vector: vector * 1e6)}),
            ]
        )
    ]
    honest, attacked, bounded, defended = (flat(model_of(run)) for run in runs)
    assert np.linalg.norm(attacked - honest) > 100
    assert np.linalg.norm(defended - bounded) < 0.01


@pytest.mark.parametrize("mode", ["none", "user-central", pytest.param("user-ftrl", marks=pytest.mark.slow)])
def test_single_updates_give_the_same_model_where_no_row_is_long(configured, mode: str) -> None:
    more = (f"privacy.mode={mode}", "privacy.minimum_separation=2", "federation.rounds=2")
    plain, grid = federate(configured(*more, "run.name=plain"))
    apart, asked = federate(configured(*more, "defence.row_bound=1e9", "run.name=apart"))
    np.testing.assert_allclose(flat(model_of(apart)), flat(model_of(plain)), rtol=0, atol=1e-5)
    trained = [message for message in asked.sent if message.metadata.message_type == tasks.TRAIN]
    assert {len(tasks.read_task(message.content)[0].users) for message in trained} == {1}
    assert len(trained) > len([message for message in grid.sent if message.metadata.message_type == tasks.TRAIN])
    realised = [[one["realised"] for one in read_lines(run.metrics)] for run in (plain, apart)]
    assert realised[0] == realised[1]
    if mode != "none":
        bodies = [
            [line["body"] for line in read_lines(run.ledger) if line["kind"] == "release"] for run in (plain, apart)
        ]
        assert [one["epsilon"] for one in bodies[0]] == [one["epsilon"] for one in bodies[1]]


@pytest.mark.parametrize("mode", ["none", "user-central"])
def test_the_row_bound_limits_what_one_device_does_to_an_item(configured, mode: str) -> None:
    more = (*PLAIN[1:], f"privacy.mode={mode}", "federation.rounds=1", "federation.server_optimiser.learning_rate=1")
    more += ("federation.server_optimiser.global_second_moment=false", "privacy.clip_norm=0.15")
    model = load_workspace(configured(*more)).new_model()
    shapes = wire.shared_shapes(model)
    start = sum(int(np.prod(shape)) for name, shape in shapes.items() if name < "target_ids")
    rows = slice(start, start + shapes["target_ids"][1])  # of the first item

    def boosted(vector: np.ndarray) -> np.ndarray:
        forged = np.zeros_like(vector)
        forged[rows] = 0.149 / np.sqrt(shapes["target_ids"][1])
        return forged

    moved = {}
    for bound in ("none", "0.01"):
        for fakes in ({}, {3: forging(boosted)}):
            name = f"run.name=b{bound.replace('.', '')}-{len(fakes)}"
            run, _ = federate(configured(*more, f"defence.row_bound={bound}", name), nodes=USERS, fakes=fakes)
            moved[bound, len(fakes)] = model_of(run)["target_ids"][0], read_lines(run.metrics)[0]["scaled_rows"]
    free = np.linalg.norm(moved["none", 1][0] - moved["none", 0][0])
    held = np.linalg.norm(moved["0.01", 1][0] - moved["0.01", 0][0])
    assert free > 0.8 * 0.149 / USERS  # the same noise in both, so the difference is the device's alone
    assert held <= 2 * 0.01 / USERS * (1 + 1e-3)
    assert moved["none", 1][1] == 0
    assert moved["0.01", 1][1] > 0


@pytest.mark.parametrize("aggregation", ["median", "trimmed-mean"])
def test_a_robust_centre_stays_within_the_honest_updates(configured, aggregation: str) -> None:
    more = (*PLAIN, "federation.rounds=1", "federation.server_optimiser.learning_rate=1")
    config = configured(*more, f"defence.aggregation={aggregation}", "defence.trim=0.2", f"run.name={aggregation}")
    fakes = {node: forging(lambda vector: vector * 0 + 1e6) for node in (2, 7)}
    run, grid = federate(config, nodes=USERS, fakes=fakes)
    honest = np.stack([one for one in updates(grid) if np.abs(one).max() < 1e5])
    assert len(honest) == USERS - 2
    model = load_workspace(config).new_model()
    start = flat({name: value.detach().numpy() for name, value in model.shared_parameters().items()})
    step = flat(model_of(run)) - start
    assert (step >= honest.min(axis=0) - 1e-6).all()
    assert (step <= honest.max(axis=0) + 1e-6).all()
    assert np.abs(step).max() > 1e-6  # it does learn


def test_the_median_of_many_users_on_a_node_is_that_of_devices(configured) -> None:
    more = (*PLAIN, "defence.aggregation=median", "federation.rounds=2")
    models = [
        flat(model_of(federate(configured(*more, f"run.name=n{nodes}"), nodes=nodes)[0])) for nodes in (1, 3, USERS)
    ]
    np.testing.assert_allclose(models[0], models[2], atol=1e-7)
    np.testing.assert_allclose(models[1], models[2], atol=1e-7)


def test_a_node_has_as_many_votes_as_users(configured) -> None:
    """Two nodes of six; one answers every message twice, the other claims two users in each."""
    said = {}
    for name in ("twice", "two users"):

        def fake(message: Message, real, name: str = name) -> list[Message]:
            reply = real()
            found, _ = tasks.read_training_reply(reply.content)
            return [reply, reply] if name == "twice" else [Message(tasks.training_reply(found, 2), reply_to=message)]

        more = (*PLAIN, "defence.aggregation=median", "federation.rounds=1", f"run.name={name.replace(' ', '-')}")
        run, _ = federate(configured(*more), fakes={2: fake})
        said[name] = read_lines(run.metrics)[0]
    assert said["twice"]["realised"] == USERS
    assert said["twice"]["refused_nodes"] == 6
    assert said["two users"]["realised"] == USERS // 2


def test_an_update_of_nobody_is_no_vote(configured) -> None:
    def nobody(message: Message, real) -> list[Message]:
        found, _ = tasks.read_training_reply(real().content)
        return [Message(tasks.training_reply(found, 0), reply_to=message)]

    more = (*PLAIN, "defence.aggregation=median", "federation.rounds=1")
    with_two = federate(configured(*more, "run.name=silent"), nodes=USERS, fakes={2: lambda message, real: []})[0]
    with_nobody = federate(configured(*more, "run.name=nobody"), nodes=USERS, fakes={2: nobody})[0]
    np.testing.assert_array_equal(flat(model_of(with_two)), flat(model_of(with_nobody)))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("privacy.mode=user-central", "defence.aggregation=median"), "noise of privacy.mode = 'user-central'"),
        (("privacy.mode=user-ftrl", "defence.aggregation=trimmed-mean"), "set defence.aggregation = 'mean'"),
        (("privacy.mode=user-distributed", "defence.aggregation=median"), "nobody sees one"),
        (("privacy.mode=user-distributed", "defence.row_bound=0.1"), "set privacy.mode = 'user-central'"),
        (("privacy.mode=user-local", "defence.row_bound=0.1"), "adds noise to every row"),
        (("privacy.mode=user-central", "defence.norm_bound=0.1"), "set privacy.clip_norm"),
        (("privacy.mode=none", "federation.backend=centralised", "defence.norm_bound=0.1"), "no devices"),
        (("privacy.mode=none", "defence.trim=0.5"), "defence.trim"),
        (("privacy.mode=none", "defence.trim=0"), "defence.trim"),
        (("privacy.mode=none", "defence.norm_bound=0"), "defence.norm_bound"),
        (("privacy.mode=none", "defence.row_bound=-1"), "defence.row_bound"),
        (("privacy.mode=none", "defence.alarm_rise=1.5"), "defence.alarm_rise"),
        (("privacy.mode=none", "defence.alarm_rise=0.3", "training.objective=mse"), "watches lists"),
        (("privacy.mode=none", "defence.aggregation=mode"), "defence.aggregation"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_mend(configured, settings: tuple[str, ...], says: str) -> None:
    with pytest.raises(MmfedError) as fault:
        configured(*settings)
    assert says in str(fault.value)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["user-local", "record"])
def test_a_median_of_updates_that_devices_noised_is_allowed(configured, mode: str) -> None:
    more = (f"privacy.mode={mode}", "defence.aggregation=median", "federation.rounds=1", f"run.name={mode}")
    run, _ = federate(configured(*more))
    assert read_lines(run.metrics)[0]["realised"] == USERS


@pytest.mark.slow
def test_a_run_in_several_processes_is_the_same(configured, tmp_path: Path) -> None:
    from mmfed.simulation.run import simulate

    found = []
    for workers in (1, 2):
        more = (*PLAIN, "defence.aggregation=median", f"federation.workers={workers}", f"run.name=w{workers}")
        run = simulate(configured(*more, "federation.rounds=2", "training.steps=2")).run
        found.append(flat(model_of(run)))
        assert any("defence" in note for note in json.loads(run.results.read_text(encoding="utf-8"))["notes"])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
