"""What a device refuses, in one line, whoever asks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from federation import device
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import tasks, wire
from mmfed.federated.workspace import load_workspace


@pytest.fixture
def asked(configured, tmp_path):
    """A device, and an honest task with its model."""

    def make(*more: str, **settings: str):
        config = configured(*more)
        workspace = load_workspace(config)
        model = workspace.new_model()
        task = tasks.Task(
            config=config,
            run_id="run-1",
            population=12,
            noise_multiplier=1.0,
            catalogue=workspace.features.digest,
            round_number=1,
            users=workspace.user_keys[:3],
        )
        arrays = wire.encode(model.shared_parameters(), wire.shared_shapes(model))
        return device(config, tmp_path / "state", **settings), task, arrays

    return make


def refusal(reply) -> str:
    assert reply.has_error()
    assert "\n" not in reply.error.reason
    assert "Fix: " in reply.error.reason
    return reply.error.reason


def test_the_honest_task_is_done(asked):
    answer, task, arrays = asked()
    reply = answer(tasks.task_content(task, arrays))
    assert not reply.has_error()
    assert tasks.read_training_reply(reply.content)[1] == 3


def test_users_who_are_not_here(asked):
    answer, task, arrays = asked()
    strangers = replace(task, users=np.array([1, 2], dtype=np.uint64))
    assert "not on this node" in refusal(answer(tasks.task_content(strangers, arrays)))


def test_the_same_user_twice(asked):
    answer, task, arrays = asked()
    twice = replace(task, users=np.repeat(task.users[:1], 2))
    assert "for one twice" in refusal(answer(tasks.task_content(twice, arrays)))


def test_another_catalogue(asked):
    answer, task, arrays = asked()
    other = replace(task, catalogue="0" * 64)
    assert "catalogue" in refusal(answer(tasks.task_content(other, arrays)))


def test_a_model_with_other_arrays(asked):
    answer, task, arrays = asked()
    for hostile in (ArrayRecord(), ArrayRecord(dict(list(arrays.items())[1:]))):
        assert "missing" in refusal(answer(tasks.task_content(task, hostile)))


MALFORMED = {
    "run-id": ["../../elsewhere", "/absolute", "", ".", "..", "a/b", "x" * 300, 5],
    "population": [-1, 1.5, 2**60, "many"],
    "round": [-1, 2**60, 1.5, True],
    "users": [10**15, b"1234567", "text", [1, 2]],
    "noise-multiplier": ["much"],
    "config": ["", "{}x", '{"privacy": {"mode": "unheard of"}}', '{"new_section": {}}'],
}


@pytest.mark.parametrize("key", MALFORMED)
def test_malformed_tasks(asked, key, tmp_path):
    answer, task, arrays = asked()
    before = set(tmp_path.rglob("*"))
    for value in MALFORMED[key]:
        record = ConfigRecord({**task.to_record(), key: value})
        content = RecordDict({"task": record, "model": arrays})
        for kind in (tasks.TRAIN, tasks.ENROL):
            assert "not a task" in refusal(answer(content, kind)), (key, value)
    without = ConfigRecord({name: value for name, value in task.to_record().items() if name != key})
    assert "not a task" in refusal(answer(RecordDict({"task": without, "model": arrays})))
    assert set(tmp_path.rglob("*")) == before, "something was written"


def test_a_message_without_a_task(asked):
    answer, _, _ = asked()
    assert "not a task" in refusal(answer(RecordDict()))


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_record_mode_without_noise(asked, sigma):
    answer, task, arrays = asked("privacy.mode=record")
    assert "noise_multiplier" in refusal(answer(tasks.task_content(replace(task, noise_multiplier=sigma), arrays)))


def test_a_real_device_refuses_noise_the_coordinator_can_subtract(asked, shop_folder):
    answer, task, arrays = asked("privacy.mode=record", **{"data-dir": str(shop_folder / "shop")})
    assert "seed" in refusal(answer(tasks.task_content(task, arrays)))
    answer, task, arrays = asked(
        "privacy.mode=record", "privacy.noise_source=csprng", **{"data-dir": str(shop_folder / "shop")}
    )
    assert not answer(tasks.task_content(task, arrays)).has_error()


@pytest.mark.parametrize(
    ("settings", "offer", "refused"),
    [
        ({"require-privacy": "user-central,record"}, ("privacy.mode=none",), "the coordinator offers none"),
        ({"require-privacy": "record"}, ("privacy.mode=user-central",), "the coordinator offers user-central"),
        (
            {"max-epsilon": 2.0},
            ("privacy.mode=user-central", "privacy.epsilon=2.1"),
            "the coordinator offers epsilon 2.1",
        ),
        ({"max-epsilon": 2.0}, ("privacy.mode=none",), "no bound on epsilon"),
        (
            {"max-epsilon": 2.0},
            ("privacy.mode=user-central", "privacy.epsilon=none", "privacy.noise_multiplier=9"),
            "no bound on epsilon",
        ),
        ({"max-epsilon": "much"}, ("privacy.mode=user-central",), "is not a number above 0"),
        ({"max-epsilon": -1}, ("privacy.mode=user-central",), "is not a number above 0"),
        (
            {"require-privacy": " record , user-central", "max-epsilon": 2},
            ("privacy.mode=user-central", "privacy.epsilon=2"),
            None,
        ),
        ({}, ("privacy.mode=none",), None),
    ],
)
def test_less_privacy_than_the_device_demands(asked, settings, offer, refused):
    answer, task, arrays = asked(*offer, **settings)
    reply = answer(tasks.task_content(task, arrays))
    if refused is None:
        assert not reply.has_error()
    else:
        assert refused in refusal(reply)


def test_the_coordinator_does_not_choose_where_a_device_writes(asked, tmp_path, monkeypatch):
    answer, task, arrays = asked(f"features.cache={tmp_path / 'theirs'}", **{"data-dir": str(tmp_path / "own")})
    asked_for = []

    def stop(config, **more):
        asked_for.append(config)
        raise MmfedError(ExitCode.DATA, "stopped here.", "nothing.")

    monkeypatch.setattr("mmfed.federated.participant.load_workspace", stop)
    refusal(answer(tasks.task_content(task, arrays)))
    assert asked_for[0].features.cache is None
    assert asked_for[0].data.path == tmp_path / "own"
