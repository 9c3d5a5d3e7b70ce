"""Adaptive clipping end to end: engines count alike, the ledger tells each C, and a resumed run takes the same way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from federation import device, federate
from tiny_shop import USERS

from mmfed.config import build_config
from mmfed.errors import MmfedError
from mmfed.federated import tasks, wire
from mmfed.federated.workspace import load_workspace
from mmfed.models.registry import RECOMMENDERS
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.records import read_lines
from mmfed.simulation.audit_run import against_rounds, run_ledgers
from mmfed.training.cohort import train_cohort
from mmfed.training.reference import train_users
from mmfed.training.update import LocalWork

ADAPTIVE = ("privacy.mode=user-central", "privacy.clipping=adaptive")


def model_lines(run, line="model"):
    return [e["body"] for e in read_lines(run.ledger) if e["kind"] == "release" and e["body"]["line"] == line]


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_engines_count_the_same_users_within(configured, name, steps):
    """At clip norms between the users' norms: nobody stands on the edge, where rounding would decide."""
    base = configured(*ADAPTIVE, f"model.name={name}", f"training.steps={steps}")
    workspace = load_workspace(base)
    model = workspace.new_model()
    vectors = torch.zeros(USERS, model.private_dimensions)

    def within(engine, clip_norm):
        privacy = base.privacy.model_copy(update={"clip_norm": clip_norm})
        work = LocalWork(training=base.training, privacy=privacy, seed=0, round_number=1)
        return engine(model, workspace.histories, vectors, work).within

    unbounded = base.privacy.model_copy(update={"clip_norm": 1e9})
    work = LocalWork(training=base.training, privacy=unbounded, seed=0, round_number=1)
    norms = []
    for user in range(USERS):
        one = train_users(model, workspace.histories.take(np.array([user])), vectors[:1], work).total
        norms.append(float(torch.cat([value.flatten() for value in one.values()]).norm()))
    norms = np.sort(norms)
    for place in (0, 3, 7, 11):
        edge = norms[place] * 0.99 if place == 0 else (norms[place - 1] * norms[place]) ** 0.5
        expected = int((norms <= edge).sum())
        assert within(train_users, edge) == within(train_cohort, edge) == expected
    assert within(train_cohort, 1e9) == within(train_users, 1e9) == USERS


@pytest.mark.parametrize("cohort", ["none", "8"])
def test_every_release_carries_its_clip_norm_and_the_quantile_is_paid_for(configured, cohort):
    more = ("privacy.epsilon=30.0", "privacy.noise_multiplier=none", "privacy.clip_norm=1000.0")
    config = configured(*ADAPTIVE, *more, "federation.rounds=6", f"federation.cohort={cohort}")
    run, grid = federate(config)
    model, statistics = model_lines(run), model_lines(run, "statistics")
    assert len(model) == len(statistics) == 6
    norms = [body["clip_norm"] for body in model]
    assert norms[0] == 1000.0
    assert len(set(norms)) == 6
    assert norms[-1] < norms[0], "far above the users' norms, it falls"
    assert {body["clip_norm"] for body in statistics} == {0.5}
    asked = [m.content["task"] for m in grid.sent if m.metadata.message_type == tasks.TRAIN]
    sent = {task["round"]: task["clip-norm"] for task in asked}
    assert [sent[body["round"]] for body in model] == norms
    audit = against_rounds(run, config, audit_ledgers(run_ledgers(run)))
    assert audit.holds, audit.findings
    assert audit.ledgers[0].claimed == pytest.approx(30.0, rel=2e-3)
    assert read_lines(run.metrics)[-1]["epsilon"] == pytest.approx(30.0, rel=2e-3)
    lines = run.ledger.read_bytes().splitlines(keepends=True)
    run.ledger.write_bytes(b"".join(lines[:-1]))
    assert not against_rounds(run, config, audit_ledgers(run_ledgers(run))).holds


def test_a_fixed_run_asks_nothing_more_of_anybody(configured):
    run, grid = federate(configured("privacy.mode=user-central"))
    assert all("clip-norm" not in m.content["task"] for m in grid.sent)
    assert all(set(m.content["report"]) == {"realised"} for m in grid.received if "report" in m.content)
    assert "shares_sample_with" not in run.ledger.read_text()


@pytest.mark.parametrize("killed", ["after the statistic", "after the update"])
def test_a_killed_run_goes_on_with_the_same_clip_norms(configured, monkeypatch, killed):
    more = ("privacy.epsilon=4.0", "privacy.noise_multiplier=none", "federation.cohort=8")
    whole, _ = federate(configured(*ADAPTIVE, *more, "run.name=whole"))
    config = configured(*ADAPTIVE, *more)
    from mmfed.federated import release

    charge = release.Ledger.charge

    def dying(self, event):
        index = charge(self, event)
        if event.round == 3 and event.line == ("statistics" if killed == "after the statistic" else "model"):
            raise KeyboardInterrupt
        return index

    monkeypatch.setattr(release.Ledger, "charge", dying)
    with pytest.raises(KeyboardInterrupt):
        federate(config)
    monkeypatch.undo()
    run, _ = federate(config, resume=True)
    assert [b["clip_norm"] for b in model_lines(run)] == [b["clip_norm"] for b in model_lines(whole)]
    assert [b["result_hash"] for b in model_lines(run)] == [b["result_hash"] for b in model_lines(whole)]
    assert [b["epsilon"] for b in model_lines(run)] == [b["epsilon"] for b in model_lines(whole)]
    assert audit_ledgers(run_ledgers(run)).holds


def test_zero_updates_do_not_divide_by_zero(configured):
    config = configured(*ADAPTIVE, "training.learning_rate=1e-300", "federation.rounds=8")
    run, _ = federate(config)
    norms = [body["clip_norm"] for body in model_lines(run)]
    assert all(np.isfinite(norms))
    assert norms[-1] < norms[0]


@pytest.mark.parametrize("lie", [-1, USERS + 1, 10**6, 0.5, None])
def test_a_node_that_miscounts_is_left_out(configured, lie):
    def miscounting(message, real):
        reply = real()
        if lie is None:
            del reply.content["report"]["within"]
        else:
            reply.content["report"]["within"] = lie
        return [reply]

    run, grid = federate(configured(*ADAPTIVE), nodes=2)
    node = sorted(grid.get_node_ids())[0]
    run, _ = federate(configured(*ADAPTIVE, "run.name=lying"), nodes=2, fakes={node: miscounting})
    assert {record["refused_nodes"] for record in read_lines(run.metrics)} == {1}


def test_a_device_refuses_a_clip_norm_that_the_configuration_does_not_announce(configured, tmp_path):
    config = configured("privacy.mode=user-central")
    workspace = load_workspace(config)
    model = workspace.new_model()
    task = tasks.Task(config, "run-1", USERS, 0.0, workspace.features.digest, 1, workspace.user_keys[:1], clip_norm=1e6)
    everything = dict(model.shared_parameters()) | model.public_tensors()
    arrays = wire.encode(everything, wire.shared_shapes(model) | wire.public_shapes(model))
    reply = device(config, tmp_path)(tasks.task_content(task, arrays))
    assert reply.has_error()
    assert "moves the clip norm" in str(reply.error.reason)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan"), "1", 1])
def test_a_clip_norm_that_is_none_is_refused(configured, value):
    task = tasks.Task(configured(*ADAPTIVE), "run-1", 1, 0.0, "0" * 64, 1, np.zeros(0, np.uint64), clip_norm=0.5)
    content = tasks.task_content(task)
    assert tasks.read_task(content)[0].clip_norm == 0.5
    content["task"]["clip-norm"] = value
    with pytest.raises(MmfedError, match="not a task"):
        tasks.read_task(content)


def test_adaptive_clipping_belongs_to_user_central():
    for mode in ("none", "record", "user-local"):
        with pytest.raises(MmfedError, match="user-central"):
            build_config({}, ["privacy.clipping=adaptive", f"privacy.mode={mode}"])
