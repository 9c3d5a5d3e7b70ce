"""The one-shot round: one packed sum a node, asked for once, and refused where it would promise more than it keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from federation import SpyingGrid, device, federate
from flwr.app import Array, ArrayRecord, Message, RecordDict
from tiny_shop import ITEMS, USERS

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import tasks
from mmfed.federated.coordinator import enrol
from mmfed.federated.one_shot import OneShotRound, collect_one_shot, load_one_shot
from mmfed.federated.one_shot_terms import MOST_ITEMS, check_one_shot, one_shot_shapes
from mmfed.federated.participant import client_app
from mmfed.federated.workspace import load_workspace
from mmfed.privacy.keys import load_or_create_key
from mmfed.records import RunFolder
from mmfed.simulation.inprocess import InProcessGrid

PLAIN = ("privacy.mode=none", "one_shot.enabled=true", "one_shot.decay=0.7")
LENGTH = ITEMS * (ITEMS + 1) // 2


def direct_sum(config: Config) -> np.ndarray:
    """[items, items] from everybody's training histories in one place, by loops."""
    train, decay = load_workspace(config).split.train, config.one_shot.decay
    total = np.zeros((ITEMS, ITEMS))
    for user in range(train.user_count):
        latest = {int(item): place for place, item in enumerate(train.items[train.rows(user)])}
        own = np.zeros((ITEMS, ITEMS))
        for i, t in latest.items():
            for j, s in latest.items():
                own[i, j] = decay ** abs(t - s)
        total += own / np.linalg.norm(own)
    return total


@dataclass
class Replies(SpyingGrid):
    """Lets a test change the replies of the one-shot round, given with the node they come from."""

    change: Callable[[Message, int], Message | None] = lambda reply, node: reply

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = []
        for message in messages:
            found = list(super().send_and_receive([message], timeout=timeout))
            if message.metadata.message_type == tasks.ONE_SHOT:
                found = [self.change(reply, message.metadata.dst_node_id) for reply in found]
            replies += [reply for reply in found if reply is not None]
        return replies[::-1]  # whoever answers first, the sum is the same


def collect(config: Config, folder: Path, *, nodes: int = 2, **more) -> tuple[np.ndarray, Replies, RunFolder]:
    run = RunFolder(folder / "run")
    grid = Replies(InProcessGrid(client_app(), nodes=nodes, state_folder=folder / "state"), **more)
    workspace = load_workspace(config)
    key = load_or_create_key(run.path / "key.pem")
    members: Mapping[int, np.ndarray] = enrol(grid, config, "run-1", workspace)
    asked = OneShotRound(grid, config, "run-1", members, workspace.features.digest, ITEMS)
    return collect_one_shot(asked, run, key).cooccurrence, grid, run


@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_the_federated_sum_is_the_direct_sum(configured, tmp_path, nodes):
    config = configured(*PLAIN)
    found, grid, run = collect(config, tmp_path, nodes=nodes)
    np.testing.assert_allclose(found, direct_sum(config), rtol=1e-12, atol=1e-14)
    assert np.array_equal(load_one_shot(run).cooccurrence, found)
    asked = [message for message in grid.sent if message.metadata.message_type == tasks.ONE_SHOT]
    assert sorted(message.metadata.dst_node_id for message in asked) == list(range(1, nodes + 1))
    users = [key for message in asked for key in tasks.read_task(message.content)[0].users.tolist()]
    assert sorted(users) == sorted(load_workspace(config).user_keys.tolist())


@pytest.mark.parametrize("nodes", [1, 5])
def test_a_reply_holds_one_packed_sum_and_a_count(configured, tmp_path, nodes):
    """The same arrays whether a node holds two users or twelve, and nothing of one user."""
    config = configured(*PLAIN)
    _, grid, _ = collect(config, tmp_path, nodes=nodes)
    replies = [reply for reply in grid.received if "report" in reply.content]
    assert len(replies) == nodes
    counts = []
    for reply in replies:
        assert set(reply.content) == {"model", "report"}
        arrays = reply.content.array_records["model"]
        assert {name: (tuple(one.shape), one.dtype) for name, one in arrays.items()} == {
            "cooccurrence": ((LENGTH,), "float64")
        }
        assert set(reply.content.metric_records["report"]) == {"realised"}
        counts.append(reply.content.metric_records["report"]["realised"])
    assert sum(counts) == USERS


def test_the_run_asks_once_and_before_the_first_round(configured):
    config = configured(*PLAIN, "federation.rounds=2")
    run, grid = federate(config)
    kinds = [message.metadata.message_type for message in grid.sent]
    assert kinds == [tasks.ENROL] * 2 + [tasks.ONE_SHOT] * 2 + [tasks.TRAIN] * 4
    np.testing.assert_allclose(load_one_shot(run).cooccurrence, direct_sum(config), rtol=1e-12, atol=1e-14)
    _, again = federate(config.model_copy(deep=True), resume=True)
    assert tasks.ONE_SHOT not in [message.metadata.message_type for message in again.sent], "it is kept"


def test_without_it_no_device_is_asked(configured):
    run, grid = federate(configured("privacy.mode=none", "federation.rounds=1"))
    assert tasks.ONE_SHOT not in [message.metadata.message_type for message in grid.sent]
    with pytest.raises(MmfedError, match="no such file"):
        load_one_shot(run)


class TestPrivacy:
    @pytest.mark.parametrize("mode", ["record", "user-ftrl"])
    def test_the_server_does_not_ask(self, configured, mode):
        """Whatever comes first, the configuration or the check, no device hears of it."""
        with pytest.raises(MmfedError, match="one_shot") as fault:
            federate(configured(*PLAIN, f"privacy.mode={mode}", "federation.rounds=1"))
        assert fault.value.code in (ExitCode.PRIVACY, ExitCode.CONFIG)

    @pytest.mark.parametrize("mode", ["record", "user-ftrl"])
    def test_the_collection_itself_refuses(self, configured, tmp_path, mode):
        plain = configured(*PLAIN)
        private = plain.model_copy(update={"privacy": plain.privacy.model_copy(update={"mode": mode})})
        answers = []
        with pytest.raises(MmfedError, match=mode) as fault:
            collect(private, tmp_path, change=lambda reply, node: answers.append(reply))
        assert fault.value.code is ExitCode.PRIVACY
        assert not answers, "no device was asked"
        assert not list(tmp_path.rglob("one-shot*"))

    @pytest.mark.parametrize("mode", ["record", "user-ftrl"])
    def test_a_device_does_not_answer(self, configured, tmp_path, mode):
        """A hostile or mistaken server asks all the same."""
        config = configured("privacy.mode=none")
        private = config.model_copy(update={"privacy": config.privacy.model_copy(update={"mode": mode})})
        reply = device(config, tmp_path)(tasks.task_content(task_of(private)), tasks.ONE_SHOT)
        assert reply.has_error()
        assert "no one-shot release" in reply.error.reason
        assert mode in reply.error.reason

    def test_a_device_that_demands_privacy_does_not_answer(self, configured, tmp_path):
        config = configured(*PLAIN)
        answer = device(config, tmp_path, **{"require-privacy": "user-central"})
        reply = answer(tasks.task_content(task_of(config)), tasks.ONE_SHOT)
        assert reply.has_error()
        assert "offers none" in reply.error.reason

    def test_without_privacy_it_answers(self, configured, tmp_path):
        config = configured(*PLAIN)
        reply = device(config, tmp_path)(tasks.task_content(task_of(config)), tasks.ONE_SHOT)
        assert tasks.read_training_reply(reply.content)[1] == 3


def task_of(config: Config) -> tasks.Task:
    workspace = load_workspace(config)
    return tasks.Task(
        config=config,
        run_id="run-1",
        population=USERS,
        noise_multiplier=0.0,
        catalogue=workspace.features.digest,
        round_number=0,
        users=workspace.user_keys[:3],
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"users": np.array([1, 2], dtype=np.uint64)}, "not on this node"),
        ({"catalogue": "0" * 64}, "catalogue"),
    ],
)
def test_a_device_refuses_strangers_and_other_catalogues(configured, tmp_path, change, said):
    config = configured(*PLAIN)
    reply = device(config, tmp_path)(tasks.task_content(replace(task_of(config), **change)), tasks.ONE_SHOT)
    assert said in reply.error.reason


def test_a_device_adds_up_the_users_asked_for_only(configured, tmp_path):
    config = configured(*PLAIN)
    answer = device(config, tmp_path)
    keys = load_workspace(config).user_keys

    def told(users) -> np.ndarray:
        reply = answer(tasks.task_content(replace(task_of(config), users=users)), tasks.ONE_SHOT)
        return reply.content.array_records["model"]["cooccurrence"].numpy()

    assert np.linalg.norm(told(keys[:1])) == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(told(keys[:2]) + told(keys[2:]), told(keys), rtol=1e-12, atol=1e-14)
    assert not told(keys[:0]).any()


def altered(reply: Message, values: np.ndarray | None = None, *, realised: int | None = None, **more) -> Message:
    """The reply with other numbers."""
    own = reply.content.array_records["model"]["cooccurrence"].numpy()
    arrays = {"cooccurrence": Array(own if values is None else values)} | more
    count = reply.content.metric_records["report"]["realised"] if realised is None else realised
    content = tasks.training_reply(ArrayRecord(arrays), int(count))  # type: ignore[arg-type]
    return Message(content, metadata=reply.metadata)  # type: ignore[call-overload]


def own_of(reply: Message) -> np.ndarray:
    return reply.content.array_records["model"]["cooccurrence"].numpy()


BROKEN: dict[str, tuple[Callable[[Message], Message], str]] = {
    "another catalogue's shape": (lambda reply: altered(reply, np.zeros(LENGTH + 1)), "has shape"),
    "a square": (lambda reply: altered(reply, np.zeros((ITEMS, ITEMS))), "has shape"),
    "NaN": (lambda reply: altered(reply, np.full(LENGTH, np.nan)), "NaN"),
    "infinity": (lambda reply: altered(reply, np.r_[np.inf, np.zeros(LENGTH - 1)]), "NaN or infinity"),
    "integers": (lambda reply: altered(reply, np.zeros(LENGTH, dtype=np.int64)), "type"),
    "more norm than its users": (
        lambda reply: altered(reply, np.r_[6.001, np.zeros(LENGTH - 1)], realised=6),
        "larger than its users",
    ),
    "norm without users": (lambda reply: altered(reply, realised=0), "larger than its users"),
    "more users than asked": (lambda reply: altered(reply, realised=7), "larger than its users"),
    "an array more": (lambda reply: altered(reply, user=Array(np.zeros(3))), "not declared shared"),
    "a record more": (
        lambda reply: Message(
            RecordDict({**reply.content, "extra": reply.content.metric_records["report"]}), metadata=reply.metadata
        ),  # type: ignore[call-overload]
        "not a training reply",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_reply_is_left_out(configured, tmp_path, kind, caplog):
    """Node 2's reply is broken: the sum is node 1's, and the log says why."""
    config = configured(*PLAIN)
    change, said = BROKEN[kind]
    found, grid, _ = collect(config, tmp_path, change=lambda reply, node: change(reply) if node == 2 else reply)
    first = next(
        own_of(reply) for reply in grid.received if reply.metadata.src_node_id == 1 and "model" in reply.content
    )
    rows, columns = np.triu_indices(ITEMS)
    np.testing.assert_allclose(found[rows, columns] * np.where(rows == columns, 1, np.sqrt(2)), first, rtol=1e-12)
    assert said in caplog.text
    assert "node 2" in caplog.text


class Repeating(Replies):
    """Every reply comes twice."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return [reply for reply in super().send_and_receive(messages, timeout=timeout) for _ in range(2)]


def test_a_repeated_reply_counts_once(configured, tmp_path, caplog):
    config, run = configured(*PLAIN), RunFolder(tmp_path / "run")
    grid = Repeating(InProcessGrid(client_app(), nodes=2, state_folder=tmp_path / "state"))
    workspace, key = load_workspace(config), load_or_create_key(run.path / "key.pem")
    members = enrol(InProcessGrid(client_app(), nodes=2, state_folder=tmp_path / "other"), config, "run-1", workspace)
    asked = OneShotRound(grid, config, "run-1", members, workspace.features.digest, ITEMS)
    total = collect_one_shot(asked, run, key).cooccurrence
    np.testing.assert_allclose(total, direct_sum(config), rtol=1e-12, atol=1e-14)
    assert "answered before" in caplog.text


def test_a_sum_as_large_as_its_users_is_taken(configured, tmp_path):
    """Six users with the same single item make norm 6: no honest node is refused."""
    config = configured(*PLAIN)
    found, _, _ = collect(
        config, tmp_path, change=lambda reply, node: altered(reply, np.r_[6.0, np.zeros(LENGTH - 1)], realised=6)
    )
    assert found[0, 0] == 12.0
    assert np.count_nonzero(found) == 1


def test_no_reply_at_all_stops_the_run(configured, tmp_path):
    config = configured(*PLAIN)
    with pytest.raises(MmfedError, match="no node gave its sum") as fault:
        collect(config, tmp_path, change=lambda reply, node: None)
    assert fault.value.code is ExitCode.FEDERATION
    assert not list(tmp_path.rglob("one-shot*")), "nothing is kept"


def test_a_damaged_sum_is_noticed(configured, tmp_path):
    _, _, run = collect(configured(*PLAIN), tmp_path)
    path = run.checkpoints / "one-shot.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(MmfedError):
        load_one_shot(run)


def test_a_catalogue_too_large_is_refused_before_anybody_is_asked(configured):
    config = configured(*PLAIN)
    check_one_shot(config, MOST_ITEMS)
    with pytest.raises(MmfedError, match="MiB") as fault:
        check_one_shot(config, MOST_ITEMS + 1)
    assert fault.value.code is ExitCode.CONFIG
    assert one_shot_shapes(config, MOST_ITEMS, None)["cooccurrence"] == (200_010_000,)
