"""Broken and hostile nodes (fakes, labelled so): a round goes on with whoever answers well, and counts the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from federation import federate
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import tasks
from mmfed.federated.progress import chosen_model
from mmfed.records import read_lines


def arrays_of(message: Message) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in message.content.array_records["model"].items()}


def answer(message: Message, arrays: dict[str, np.ndarray], realised) -> Message:
    record = ArrayRecord({name: Array(np.ascontiguousarray(value)) for name, value in arrays.items()})
    content = RecordDict({"model": record, "report": MetricRecord({"realised": realised})})
    return Message(content, reply_to=message)


def like(message: Message, value: float) -> dict[str, np.ndarray]:
    return {name: np.full(array.shape, value, dtype=np.float64) for name, array in arrays_of(message).items()}


def asked(message: Message) -> int:
    return len(tasks.read_task(message.content)[0].users)


FAKES = {
    "norm above the bound": lambda m, real: [answer(m, like(m, 10.0), asked(m))],
    "norm above the bound of fewer users": lambda m, real: [answer(m, arrays_of(real()) | like(m, 0.05), 1)],
    "overflowing norm": lambda m, real: [answer(m, like(m, 1e300), asked(m))],
    "NaN": lambda m, real: [answer(m, like(m, np.nan), asked(m))],
    "too many users": lambda m, real: [answer(m, like(m, 0.0), asked(m) + 1)],
    "a negative count": lambda m, real: [answer(m, like(m, 0.0), -1)],
    "an infinite count": lambda m, real: [answer(m, like(m, 0.0), float("inf"))],
    "a fractional count": lambda m, real: [answer(m, like(m, 0.0), 0.5)],
    "a list for a count": lambda m, real: [answer(m, like(m, 0.0), [1, 2])],
    "a missing array": lambda m, real: [answer(m, dict(list(like(m, 0.0).items())[1:]), 1)],
    "an extra array": lambda m, real: [answer(m, like(m, 0.0) | {"user_vector": np.zeros(6)}, 1)],
    "an extra record": lambda m, real: [
        Message(RecordDict({**real().content, "histories": ConfigRecord({"u0": "i3,i4"})}), reply_to=m)
    ],
    "an extra metric": lambda m, real: [
        Message(
            RecordDict({**real().content, "report": MetricRecord({"realised": 1, "loss": 0.5})}),
            reply_to=m,
        )
    ],
    "nothing in it": lambda m, real: [Message(RecordDict(), reply_to=m)],
    "an error": lambda m, real: [Message(Error(code=3, reason="disk\nfull"), reply_to=m)],
    "no reply": lambda m, real: [],
}


@pytest.mark.parametrize("how", FAKES)
def test_one_bad_node_of_two(configured, how):
    run, _ = federate(configured("federation.rounds=2"), fakes={2: FAKES[how]})
    records = read_lines(run.metrics)
    assert [record["refused_nodes"] for record in records] == [1, 1], how
    assert [record["realised"] for record in records] == [6, 6]
    releases = [line["body"] for line in read_lines(run.ledger) if line["kind"] == "release"]
    assert [(body["realised_cohort"], body["dropouts"], body["planned_cohort"]) for body in releases] == [
        (6, 6, 12)
    ] * 2


@pytest.mark.parametrize("how", FAKES)
def test_only_bad_nodes_stop_the_run_with_a_mend(configured, how):
    with pytest.raises(MmfedError) as fault:
        federate(configured(), fakes={1: FAKES[how], 2: FAKES[how]})
    assert fault.value.code is ExitCode.FEDERATION
    assert "--resume" in fault.value.fix
    assert "\n" not in str(fault.value)


def test_a_bad_node_leaves_no_trace_in_the_model(configured):
    """The update of two nodes, one of them refused, is the update of the other with the other's noise."""
    quiet = ("privacy.noise_multiplier=1e-9", "federation.rounds=1")
    bad, _ = federate(configured(*quiet, "run.name=bad"), fakes={2: FAKES["norm above the bound"]})
    silent, _ = federate(configured(*quiet, "run.name=silent"), fakes={2: FAKES["no reply"]})
    one, other = (chosen_model(run, configured(*quiet))[0] for run in (bad, silent))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_reply_given_twice_counts_once(configured):
    def twice(message, real):
        return [reply := real(), reply]

    run, _ = federate(configured("federation.rounds=2"), fakes={2: twice})
    honest, _ = federate(configured("federation.rounds=2", "run.name=honest"))
    assert [(r["realised"], r["refused_nodes"]) for r in read_lines(run.metrics)] == [(12, 1)] * 2
    one, other = (chosen_model(folder, configured())[0] for folder in (run, honest))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_node_that_was_not_asked_is_ignored(configured):
    def impostor(message, real):
        message.metadata._dst_node_id = 77
        reply = answer(message, like(message, 0.0), 1)
        assert reply.metadata.src_node_id == 77
        return [reply]

    run, _ = federate(configured("federation.rounds=2"), fakes={2: impostor})
    assert [(r["realised"], r["refused_nodes"]) for r in read_lines(run.metrics)] == [
        (6, 2)
    ] * 2  # impostor and silence


def test_a_node_that_loses_users_is_believed(configured):
    def fewer(message, real):
        return [answer(message, like(message, 0.0), 0)]

    run, _ = federate(configured("federation.rounds=1"), fakes={2: fewer})
    (release,) = [line["body"] for line in read_lines(run.ledger) if line["kind"] == "release"]
    assert (release["realised_cohort"], release["dropouts"], release["planned_cohort"]) == (6, 6, 12)


def test_enrolment_of_a_broken_node_is_refused(configured, monkeypatch):
    for content in (
        RecordDict(),
        RecordDict({"reply": ConfigRecord({"users": 10**15, "catalogue": "x"})}),
        RecordDict({"reply": ConfigRecord({"users": b"1234567", "catalogue": "x"})}),
        RecordDict({"reply": ConfigRecord({"users": bytes(8), "catalogue": "another"})}),
    ):
        monkeypatch.setattr(tasks, "enrolment_reply", lambda users, digest, content=content: content)
        with pytest.raises(MmfedError, match="0 of 1 nodes could enrol"):
            federate(configured())


def test_a_user_on_two_nodes_stops_the_run(configured, monkeypatch):
    real = tasks.enrolment_reply
    monkeypatch.setattr(tasks, "enrolment_reply", lambda users, digest: real(np.array([5], dtype=np.uint64), digest))
    with pytest.raises(MmfedError, match="two nodes"):
        federate(configured())


def test_the_divisor_is_the_planned_cohort(configured):
    """Half of the users gone halves the step of a noise-free FedAvg; a mean over the realised ones would not."""
    quiet = ("privacy.noise_multiplier=1e-9", "federation.rounds=1", "privacy.clip_norm=100")
    quiet = (*quiet, "federation.server_optimiser.name=fedavg", "federation.server_optimiser.learning_rate=1.0")
    start = federate(configured(*quiet, "federation.server_optimiser.learning_rate=1e-30", "run.name=start"))[0]
    models = {"start": chosen_model(start, configured())[0]}
    for name, fakes in {"whole": {}, "first": {2: FAKES["no reply"]}, "second": {1: FAKES["no reply"]}}.items():
        run, _ = federate(configured(*quiet, f"run.name={name}"), fakes=fakes)
        models[name] = chosen_model(run, configured())[0]
    for parameter, start_value in models["start"].items():
        first, second = (models[name][parameter] - start_value for name in ("first", "second"))
        torch.testing.assert_close(models["whole"][parameter] - start_value, first + second, rtol=1e-3, atol=1e-6)


def test_an_empty_cohort_still_releases_noise(configured):
    run, grid = federate(configured("federation.cohort=1", "run.seed=3", "federation.rounds=12"))
    records = read_lines(run.metrics)
    empty = [record["round"] for record in records if record["asked"] == 0]
    assert empty, "choose a seed with an empty round"
    releases = {line["body"]["round"]: line["body"] for line in read_lines(run.ledger) if line["kind"] == "release"}
    assert len(releases) == 12, "an empty round is charged like any other"
    assert all(releases[number]["realised_cohort"] == 0 for number in empty)
    trained = {int(message.metadata.group_id) for message in grid.sent if message.metadata.message_type == tasks.TRAIN}
    assert not trained & set(empty)
