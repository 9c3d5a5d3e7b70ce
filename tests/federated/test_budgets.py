"""Budgets by line, and of a device over all its runs: refused before anything is spent, with a reason in the ledger."""

from __future__ import annotations

import numpy as np
import pytest
from federation import device, federate
from tiny_shop import USERS

from mmfed.errors import MmfedError
from mmfed.federated import tasks, wire
from mmfed.federated.device_state import device_state, forget
from mmfed.federated.lifetime import lifetime_of, total_spent, users_of
from mmfed.federated.workspace import load_workspace
from mmfed.privacy.accounting import GaussianRelease, epsilon
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.budget_lines import odometer
from mmfed.privacy.keys import load_or_create_key
from mmfed.privacy.ledger import Ledger
from mmfed.records import read_lines

LOCAL = ("privacy.mode=user-local", "privacy.epsilon=none", "privacy.noise_multiplier=10")


def reasons(path):
    return [line["body"]["reason"] for line in read_lines(path) if line["kind"] == "refusal"]


def local(sigma, count, delta=1e-6):
    one = GaussianRelease(noise_multiplier=sigma / 2, sampling="full", sampling_rate=1.0, count=count)
    return epsilon([one], delta).value


@pytest.mark.parametrize("line", ["model", "statistics"])
def test_the_coordinator_refuses_what_passes_a_lines_bound(configured, line):
    adaptive = ("privacy.mode=user-central", "privacy.clipping=adaptive", "privacy.noise_multiplier=3.0")
    free, _ = federate(configured(*adaptive, "run.name=free"))
    with Ledger.open(free.ledger, load_or_create_key(free.path / "key.pem")) as ledger:
        spending = {one.line: one for one in odometer(ledger, {"metrics": 1.0})}
    assert set(spending) == {"model", "statistics", "metrics", "all"}
    assert spending["metrics"].left == 1.0
    assert max(spending["model"].spent, spending["statistics"].spent) < spending["all"].spent
    bound = spending[line].spent * 0.9
    config = configured(*adaptive, f"privacy.lines.{line}={bound}")
    with pytest.raises(MmfedError, match=f"budget of line {line} exhausted"):
        federate(config)
    run = config.run.folder / config.run.name
    assert f"line {line}" in reasons(run / "ledger.jsonl")[0]
    assert audit_ledgers([run / "ledger.jsonl"]).holds
    kinds = [entry["body"]["line"] for entry in read_lines(run / "ledger.jsonl") if entry["kind"] == "release"]
    assert kinds.count("model") == kinds.count("statistics") == 3, "both of a round, or none"


def test_a_device_refuses_what_passes_a_lines_bound(configured):
    bound = local(10, 2, delta=USERS**-1.1) * 1.001
    run, _ = federate(configured(*LOCAL, f"privacy.lines.model={bound}"), nodes=1)
    assert [record["realised"] for record in read_lines(run.metrics)] == [USERS, USERS, 0, 0]
    (first, *_) = sorted(run.devices.glob("*/*/ledgers/*.jsonl"))
    assert "line model" in reasons(first)[0]


def ask(config, folder, run_id, number, **settings):
    """What one device answers: users in its reply, or its fault."""
    workspace = load_workspace(config)
    model = workspace.new_model()
    shapes = wire.shared_shapes(model)
    everything = dict(model.shared_parameters()) | model.public_tensors()
    task = tasks.Task(
        config, run_id, USERS, 10.0, workspace.features.digest, number, np.array([workspace.user_keys[0]])
    )
    arrays = wire.encode(everything, shapes | wire.public_shapes(model))
    reply = device(config, folder, **settings)(tasks.task_content(task, arrays))
    return str(reply.error.reason) if reply.has_error() else tasks.read_training_reply(reply.content)[1]


def test_a_device_counts_over_runs_and_models(configured, tmp_path):
    """Four releases fit: two of one run and model, two of another; the fifth is refused wherever it is asked."""
    most = {"max-total-epsilon": str(local(10, 4) * 1.001)}
    one, other = configured(*LOCAL, "model.name=mf"), configured(*LOCAL, "model.name=dfmf")
    answers = [ask(one, tmp_path, "first", number, **most) for number in (1, 2)]
    answers += [ask(other, tmp_path, "second", number, **most) for number in (1, 2, 3)]
    answers += [ask(one, tmp_path, "first", 3, **most), ask(one, tmp_path, "third", 1, **most)]
    assert answers == [1, 1, 1, 1, 0, 0, 0]
    assert ask(other, tmp_path, "second", 2, **most) == 1, "the same release again costs nothing"
    (user,) = users_of(tmp_path)
    assert total_spent(tmp_path, user, unit="user", delta=1e-6) == pytest.approx(local(10, 4))
    refused = [reason for path in tmp_path.glob("*/*/ledgers/*.jsonl") for reason in reasons(path)]
    assert len(refused) == 3
    assert all("over all runs" in reason and "max-total-epsilon" in reason for reason in refused)
    assert audit_ledgers(sorted(tmp_path.glob("*/*/ledgers/*.jsonl"))).holds
    state = device_state(tmp_path)
    assert state.totals["user"] == pytest.approx(local(10, 4))
    assert {run.run: run.refusals for run in state.runs} == {"first": 1, "second": 1, "third": 1}
    forget(tmp_path)
    assert ask(one, tmp_path, "fourth", 1, **most) != 1, "forgetting gives no budget back"


def test_records_and_users_are_counted_apart(configured, tmp_path):
    record = configured("privacy.mode=record", "privacy.epsilon=none", "privacy.noise_multiplier=10")
    assert ask(configured(*LOCAL), tmp_path, "users", 1) == 1
    assert ask(record, tmp_path, "records", 1) == 1
    (user,) = users_of(tmp_path)
    assert total_spent(tmp_path, user, unit="user", delta=1e-6) == pytest.approx(local(10, 1))
    assert total_spent(tmp_path, user, unit="interaction", delta=1e-6) > local(10, 1)


def test_correlated_noise_counts_too(configured, tmp_path):
    ftrl = configured("privacy.mode=user-ftrl", "privacy.epsilon=none", "privacy.minimum_separation=1")
    assert ask(ftrl, tmp_path, "a", 1) == 1
    (user,) = users_of(tmp_path)
    spent = total_spent(tmp_path, user, unit="user", delta=1e-6)
    one = GaussianRelease(noise_multiplier=10.0, sampling="full", sampling_rate=1.0)
    assert spent == pytest.approx(epsilon([one], 1e-6).value)
    assert ask(ftrl, tmp_path, "a", 2, **{"max-total-epsilon": str(spent * 1.01)}) == 0


@pytest.mark.parametrize("mode", ["none", "user-central"])
def test_what_a_device_cannot_count_it_refuses(configured, tmp_path, mode):
    answer = ask(configured(f"privacy.mode={mode}"), tmp_path, "a", 1, **{"max-total-epsilon": "5"})
    assert "cannot do in mode" in str(answer)


@pytest.mark.parametrize("wrong", ["much", "-1", "nan", "inf", "0"])
def test_a_bound_that_is_none_is_refused(tmp_path, wrong):
    with pytest.raises(MmfedError, match="max-total-epsilon"):
        lifetime_of({"max-total-epsilon": wrong}, tmp_path, "user-local")
    with pytest.raises(MmfedError, match="delta"):
        lifetime_of({"max-total-epsilon": "1", "total-delta": "2"}, tmp_path, "user-local")


def test_a_damaged_ledger_stops_the_device(configured, tmp_path):
    config, most = configured(*LOCAL), {"max-total-epsilon": "50"}
    assert ask(config, tmp_path, "first", 1, **most) == 1
    (path,) = tmp_path.glob("*/*/ledgers/*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"round":1', b'"round":2'))
    assert "line 2" in str(ask(config, tmp_path, "second", 1, **most))
    assert device_state(tmp_path).totals == {"user": None, "interaction": None}
