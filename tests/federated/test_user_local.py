"""User-local mode end to end: nothing unclipped or without noise reaches the server; every device pays for itself."""

from __future__ import annotations

import numpy as np
import pytest
from federation import device, federate
from scipy import stats
from tiny_shop import USERS

from mmfed.errors import MmfedError
from mmfed.federated import tasks, wire
from mmfed.federated.device_account import DeviceAccount
from mmfed.federated.device_policy import check_policy
from mmfed.federated.workspace import load_workspace
from mmfed.models.registry import RECOMMENDERS
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.local import local_noise_for
from mmfed.privacy.units import default_delta
from mmfed.records import read_lines
from mmfed.rng import derive, numpy_generator
from mmfed.simulation.audit_run import against_rounds, run_ledgers
from mmfed.simulation.run import worst_device

LOCAL = ("privacy.mode=user-local", "privacy.clip_norm=0.5")
LAWS = ("gaussian", "laplace")


def one_update(config, folder, user=3, *, noise=2.0, round_number=1):
    """What one device's reply holds, as a vector, and the noise that its seed gives."""
    workspace = load_workspace(config)
    model = workspace.new_model()
    shapes = wire.shared_shapes(model)
    key = int(workspace.user_keys[user])
    task = tasks.Task(
        config=config,
        run_id="run-1",
        population=USERS,
        noise_multiplier=noise,
        catalogue=workspace.features.digest,
        round_number=round_number,
        users=np.array([key], dtype=np.uint64),
    )
    everything = dict(model.shared_parameters()) | model.public_tensors()
    arrays = wire.encode(everything, shapes | wire.public_shapes(model))
    reply = device(config, folder)(tasks.task_content(task, arrays))
    assert not reply.has_error(), reply.error
    arrays, realised = tasks.read_training_reply(reply.content)
    vector = wire.flatten(wire.decode(arrays, shapes), shapes)
    generator = numpy_generator(derive(config.run.seed, "device", key), "privacy-noise", "local model", round_number)
    if config.privacy.local_noise == "gaussian":
        return vector, generator.standard_normal(vector.size) * noise * config.privacy.clip_norm, realised
    squares = np.square(generator.standard_normal(4 * vector.size)).reshape(4, -1)
    samples = (squares[:2].sum(0) - squares[2:].sum(0)) / 2
    return vector, samples * noise * config.privacy.clip_norm, realised


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("engine", ["cohort", "reference"])
@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_what_leaves_is_clipped_and_noised_for_every_model(configured, tmp_path, name, engine, law):
    more = (f"model.name={name}", f"training.engine={engine}", f"privacy.local_noise={law}", "training.steps=2")
    config = configured(*LOCAL, *more, "training.learning_rate=50")
    vector, noise, realised = one_update(config, tmp_path)
    order, grid = (2 if law == "gaussian" else 1), 2.0**-16
    clipped = np.linalg.norm(vector - noise, order)
    assert realised == 1
    assert clipped == pytest.approx(0.5, abs=grid * vector.size), "a learning rate of 50 must not get past the clip"
    assert np.linalg.norm(noise, order) > 2 * clipped


@pytest.mark.parametrize("law", LAWS)
def test_engines_send_the_same(configured, tmp_path, law):
    first, second = (
        one_update(configured(*LOCAL, f"training.engine={engine}", f"privacy.local_noise={law}"), tmp_path / engine)[0]
        for engine in ("cohort", "reference")
    )
    assert np.abs(first - second).max() < 1e-4


def test_noise_has_the_planned_law_on_the_wire_with_power(configured, tmp_path):
    config = configured(*LOCAL, "training.learning_rate=1e-9")
    sent = [one_update(config, tmp_path / str(user), user)[0] for user in range(6)]
    values = np.concatenate(sent)
    for scale, accepted in ((1.0, True), (2 / 3, False), (3 / 2, False)):
        assert (stats.kstest(values, "norm", args=(0, scale)).pvalue > 1e-7) == accepted
    assert abs(np.corrcoef(sent[0], sent[1])[0, 1]) < 6 / np.sqrt(sent[0].size)
    config = configured(*LOCAL, "training.learning_rate=1e-9", "privacy.local_noise=laplace")
    values = np.concatenate([one_update(config, tmp_path / f"l{user}", user)[0] for user in range(6)])
    for scale, accepted in ((1.0, True), (2 / 3, False), (3 / 2, False)):
        assert (stats.kstest(values, "laplace", args=(0, scale)).pvalue > 1e-7) == accepted
    assert stats.kstest(values, "norm", args=(0, np.sqrt(2))).pvalue < 1e-7


@pytest.mark.parametrize("law", LAWS)
def test_a_run_is_charged_on_every_device_and_the_audit_agrees(configured, law):
    more = (f"privacy.local_noise={law}", "privacy.epsilon=6.0", "privacy.noise_multiplier=none")
    config = configured(*LOCAL, *more, "federation.cohort=8")
    run, grid = federate(config)
    assert not run.ledger.exists(), "the server charges nothing"
    rounds = read_lines(run.metrics)
    assert len(rounds) == 4
    ledgers = run_ledgers(run)
    audit = against_rounds(run, config, audit_ledgers(ledgers))
    assert audit.holds, audit.findings
    assert sum(one.releases for one in audit.ledgers) == sum(record["realised"] for record in rounds)
    assert 0 < worst_device(run) <= 6.0
    header = audit.ledgers[0].header
    assert header["mode"] == "user-local"
    assert "nobody" in header["trust"]
    releases = [line["body"] for line in read_lines(ledgers[0]) if line["kind"] == "release"]
    assert {body["sensitivity"] for body in releases} == {2.0}
    assert {body["noise_added_by"] for body in releases} == {"device"}
    planned = local_noise_for(epsilon=6.0, delta=default_delta(USERS), releases=4, law=law)
    assert releases[0]["noise_multiplier"] == pytest.approx(planned)
    for message in grid.received:
        assert "norm" not in repr(message.content)
    ledgers[0].unlink()
    assert not against_rounds(run, config, audit_ledgers(run_ledgers(run))).holds


def test_the_cap_on_participations_is_kept_by_the_device(configured):
    run, _ = federate(configured(*LOCAL, "privacy.participations=2"), nodes=1)
    assert [record["realised"] for record in read_lines(run.metrics)] == [USERS, USERS, 0, 0]
    lines = [line for path in run_ledgers(run) for line in read_lines(path)]
    reasons = [line["body"]["reason"] for line in lines if line["kind"] == "refusal"]
    assert len(reasons) == 2 * USERS
    assert "of at most 2" in reasons[0]
    assert audit_ledgers(run_ledgers(run)).holds


def test_a_spent_budget_stops_the_device_whatever_the_server_asks(configured, tmp_path):
    config = configured(*LOCAL, "privacy.epsilon=3.0")
    noise = local_noise_for(epsilon=3.0, delta=default_delta(USERS), releases=2, law="gaussian")
    answers = [one_update(config, tmp_path, noise=noise, round_number=number)[2] for number in (1, 2, 3, 4)]
    assert answers == [1, 1, 0, 0]
    assert one_update(config, tmp_path, noise=noise, round_number=2)[2] == 1, "the same round again is the same release"
    (ledger,) = tmp_path.glob("*/*/ledgers/*.jsonl")
    assert audit_ledgers([ledger]).holds


def test_a_device_that_refuses_does_not_move_its_private_vector(configured):
    vector = (*LOCAL, "model.private_user_vector=true")
    run, _ = federate(configured(*vector, "privacy.participations=1"), nodes=1)
    vectors = [np.fromfile(path, dtype=np.float32) for path in run.devices.glob("*/*/vectors/vectors.f32")]
    once, _ = federate(
        configured(*LOCAL, "model.private_user_vector=true", "federation.rounds=1", "run.name=o"), nodes=1
    )
    first = [np.fromfile(path, dtype=np.float32) for path in once.devices.glob("*/*/vectors/vectors.f32")]
    assert np.abs(vectors[0]).max() > 0
    assert np.array_equal(np.sort(vectors[0][vectors[0] != 0]), np.sort(first[0][first[0] != 0]))


def test_the_number_of_nodes_changes_nothing(configured):
    config = configured(*LOCAL)
    run, _ = federate(config, nodes=1)
    more, _ = federate(configured(*LOCAL, "run.name=three"), nodes=3)
    counts = [[(r["asked"], r["realised"]) for r in read_lines(one.metrics)] for one in (run, more)]
    assert counts[0] == counts[1]
    assert worst_device(run) == worst_device(more)


def test_a_real_device_makes_no_noise_from_a_seed_the_server_knows(configured, tmp_path):
    config = configured(*LOCAL)
    with pytest.raises(MmfedError, match="seed it knows"):
        check_policy({"data-dir": str(tmp_path)}, config)
    secure = configured(*LOCAL, "privacy.noise_source=csprng")
    check_policy({"data-dir": str(tmp_path)}, secure)


def test_secure_noise_cannot_be_told_from_the_seed(configured, tmp_path):
    vector, noise, _ = one_update(configured(*LOCAL, "privacy.noise_source=csprng"), tmp_path)
    assert abs(np.corrcoef(vector, noise)[0, 1]) < 6 / np.sqrt(vector.size)


def test_what_cannot_be_charged_does_not_leave(configured, tmp_path, monkeypatch):
    config = configured(*LOCAL)
    one_update(config, tmp_path / "good")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmfed.privacy.ledger._write_all", full)
    with pytest.raises(AssertionError, match="nothing was released"):
        one_update(config, tmp_path / "full")


def test_a_charge_that_says_less_than_the_device_did_is_seen(configured, tmp_path):
    """The mechanism and its account take sensitivity and noise from one place each."""
    config = configured(*LOCAL)
    task = tasks.Task(config, "run-1", USERS, 1.5, "0" * 64, 1, np.array([7], dtype=np.uint64))
    account = DeviceAccount(tmp_path, 7, task)
    assert account.mechanism().noise_multiplier == 1.5
    assert account.mechanism().clip_norm == 0.5
    assert account.charge(np.arange(4.0))
    (path,) = tmp_path.glob("ledgers/*.jsonl")
    body = read_lines(path)[1]["body"]
    assert (body["noise_multiplier"], body["clip_norm"], body["sensitivity"]) == (1.5, 0.5, 2.0)
