"""A device's own account: charged before anything leaves, over rounds and processes, and final when spent."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from federation import device, federate
from opacus.accountants import PRVAccountant, RDPAccountant

from mmfed.errors import MmfedError
from mmfed.federated import tasks, wire
from mmfed.federated.device_account import DeviceAccount
from mmfed.federated.workspace import load_workspace
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.units import default_delta
from mmfed.records import read_lines
from mmfed.simulation.run import worst_device

UPDATE = np.linspace(-1, 1, 10)
RECORD = ("privacy.mode=record", "privacy.record_sample_rate=0.5", "privacy.clip_norm=0.5")


@pytest.fixture
def task(configured):
    config = configured(*RECORD)
    return tasks.Task(
        config=config,
        run_id="run-1",
        population=12,
        noise_multiplier=1.0,
        catalogue="0" * 64,
        round_number=1,
        users=np.array([7], dtype=np.uint64),
    )


def with_target(task, epsilon):
    privacy = task.config.privacy.model_copy(update={"epsilon": epsilon})
    return replace(task, config=task.config.model_copy(update={"privacy": privacy}))


def account(folder, task, key=7):
    return DeviceAccount(folder, key, task)


def releases(folder, key=7):
    lines = read_lines(folder / "ledgers" / f"{key:016x}.jsonl")
    return [line["body"] for line in lines if line["kind"] == "release"]


@pytest.mark.parametrize("steps", [1, 3])
def test_epsilon_against_opacus_and_dp_accounting(tmp_path, task, steps):
    rounds, sigma, rate = 8, 1.1, 0.5
    training = task.config.training.model_copy(update={"steps": steps})
    task = replace(task, noise_multiplier=sigma, config=task.config.model_copy(update={"training": training}))
    for number in range(1, rounds + 1):
        one = account(tmp_path, replace(task, round_number=number))
        assert one.admits()
        assert one.charge(UPDATE * number)
    claimed = releases(tmp_path)[-1]["epsilon"]
    delta = default_delta(12)
    distribution = pld.from_gaussian_mechanism(sigma, value_discretization_interval=1e-4, sampling_prob=rate)
    expected = distribution.self_compose(rounds * steps).get_epsilon_for_delta(delta)
    assert claimed == pytest.approx(expected, abs=1e-6)
    history = [(sigma, rate, rounds * steps)]
    for make, slack in ((RDPAccountant, 0.0), (PRVAccountant, 0.05)):
        other = make()
        other.history = history
        reference = other.get_epsilon(delta=delta)
        assert claimed <= reference + 1e-9, "PLD is the tighter bound"
        if slack:
            assert claimed == pytest.approx(reference, abs=slack)
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma))
    rdp = dp_accounting.rdp.RdpAccountant().compose(event, rounds * steps).get_epsilon(delta)
    assert claimed <= rdp + 1e-9


def test_the_same_bits_cost_nothing_and_others_are_charged(tmp_path, task):
    one = account(tmp_path, task)
    assert one.charge(UPDATE)
    first = releases(tmp_path)
    assert account(tmp_path, task).admits()
    assert account(tmp_path, task).charge(UPDATE.copy())
    assert releases(tmp_path) == first
    assert account(tmp_path, task).charge(np.nextafter(UPDATE, 2))
    assert len(releases(tmp_path)) == 2
    assert releases(tmp_path)[1]["epsilon"] > first[0]["epsilon"]


def test_the_account_outlives_the_process(tmp_path, task):
    account(tmp_path, task).charge(UPDATE)
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
import numpy as np
from pathlib import Path
from mmfed.config import Config
from mmfed.federated.device_account import DeviceAccount
from mmfed.federated.tasks import Task
config = Config.model_validate_json({task.config.model_dump_json()!r})
task = Task(config=config, run_id="run-1", population=12, noise_multiplier=1.0, catalogue="0" * 64, round_number=2,
            users=np.array([7], dtype=np.uint64))
DeviceAccount(Path({str(tmp_path)!r}), 7, task).charge(np.arange(10.0))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=os.environ)
    both = releases(tmp_path)
    assert [body["round"] for body in both] == [1, 2]
    assert both[1]["epsilon"] > both[0]["epsilon"]
    assert audit_ledgers([tmp_path / "ledgers" / f"{7:016x}.jsonl"]).holds


def test_a_spent_budget_refuses_and_says_so(tmp_path, task):
    account(tmp_path, task).charge(UPDATE)
    spent = releases(tmp_path)[0]["epsilon"]
    tight = with_target(task, spent * 1.2)
    folder = tmp_path / "tight"
    assert account(folder, tight).admits()
    assert account(folder, tight).charge(UPDATE)
    assert not account(folder, replace(tight, round_number=2)).admits()
    assert not account(folder, replace(tight, round_number=2)).charge(UPDATE * 2), "not even when it was never asked"
    assert len(releases(folder)) == 1
    refusals = [line for line in read_lines(folder / "ledgers" / f"{7:016x}.jsonl") if line["kind"] == "refusal"]
    assert {line["body"]["by"] for line in refusals} == {"device"}
    assert "above the target" in refusals[0]["body"]["reason"]


def test_a_repeated_round_passes_but_only_with_the_same_bits(tmp_path, task):
    account(tmp_path, task).charge(UPDATE)
    tight = with_target(task, releases(tmp_path)[0]["epsilon"] * 1.2)
    folder = tmp_path / "tight"
    account(folder, tight).charge(UPDATE)
    assert account(folder, tight).admits(), "the repetition after a crash"
    assert account(folder, tight).charge(UPDATE)
    assert not account(folder, tight).charge(UPDATE * 2), "another result of the same round has no budget"
    assert len(releases(folder)) == 1


def test_a_promise_cannot_change_on_the_way(tmp_path, task):
    account(tmp_path, task).charge(UPDATE)
    with pytest.raises(MmfedError, match="target_epsilon"):
        account(tmp_path, with_target(task, 1000.0)).admits()
    with pytest.raises(MmfedError, match="population"):
        account(tmp_path, replace(task, population=2)).admits()


def test_an_update_that_is_not_finite_is_not_charged(tmp_path, task):
    with pytest.raises(MmfedError, match="not finite"):
        account(tmp_path, task).charge(np.array([np.nan]))
    assert not (tmp_path / "ledgers" / f"{7:016x}.jsonl").exists() or not releases(tmp_path)


def test_users_have_accounts_and_noise_of_their_own(tmp_path, task):
    one, other = account(tmp_path, task, key=7), account(tmp_path, task, key=8)
    assert one.sample_key != other.sample_key
    assert not np.array_equal(one.noise(10, "x"), other.noise(10, "x"))
    assert not np.array_equal(one.noise(10, "x"), account(tmp_path, replace(task, round_number=2)).noise(10, "x"))
    one.charge(UPDATE)
    assert not (tmp_path / "ledgers" / f"{8:016x}.jsonl").exists()


def test_secure_noise_differs_every_time(tmp_path, task):
    privacy = task.config.privacy.model_copy(update={"noise_source": "csprng"})
    task = replace(task, config=task.config.model_copy(update={"privacy": privacy}))
    one, other = account(tmp_path, task), account(tmp_path, task)
    assert one.sample_key != other.sample_key
    assert not np.array_equal(one.noise(10, "x"), one.noise(10, "x"))


def test_the_run_goes_on_without_devices_whose_budget_is_spent(configured):
    one, _ = federate(configured(*RECORD, "federation.rounds=1", "run.name=one"), nodes=1)
    epsilon = worst_device(one)
    tight = (*RECORD, f"privacy.epsilon={epsilon * 1.3}", "privacy.noise_multiplier=1.0", "federation.rounds=3")
    run, _ = federate(configured(*tight), nodes=2)
    assert [record["realised"] for record in read_lines(run.metrics)] == [12, 0, 0]
    ledgers = sorted(run.devices.glob("*/*/ledgers/*.jsonl"))
    assert len(ledgers) == 12
    assert worst_device(run) == pytest.approx(epsilon)
    assert audit_ledgers(ledgers).holds


def test_what_leaves_was_charged(configured, tmp_path, monkeypatch):
    """The charge is durable before the reply exists; when it cannot be made, there is no reply."""
    config = configured(*RECORD)
    workspace = load_workspace(config)
    model = workspace.new_model()
    task = tasks.Task(
        config=config,
        run_id="run-1",
        population=12,
        noise_multiplier=1.0,
        catalogue=workspace.features.digest,
        round_number=1,
        users=workspace.user_keys[:2],
    )
    arrays = wire.encode(model.shared_parameters(), wire.shared_shapes(model))
    answer = device(config, tmp_path / "good")
    assert not answer(tasks.task_content(task, arrays)).has_error()
    assert len(list((tmp_path / "good").glob("*/*/ledgers/*.jsonl"))) == 2

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmfed.privacy.ledger._write_all", full)
    reply = device(config, tmp_path / "full")(tasks.task_content(task, arrays))
    assert reply.has_error()
    assert "nothing was released" in reply.error.reason
