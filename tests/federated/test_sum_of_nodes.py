"""One question to every node: the answers that hold are added in one order, the others are left out and named."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import tasks
from mmfed.federated.faults import error_reply
from mmfed.federated.sum_of_nodes import sum_of_nodes
from mmfed.simulation.inprocess import InProcessGrid

SHAPES = {"metrics": (4,)}
USERS = {0: [5, 6], 1: [1, 2, 3], 2: [9]}  # by the place of the node
Answer = Callable[[Message], Message]


def saying(vector: list[float], realised: int, *, name: str = "metrics") -> Answer:
    def answer(message: Message) -> Message:
        arrays = ArrayRecord({name: Array(np.array(vector, dtype=np.float64))})
        return Message(tasks.training_reply(arrays, realised), reply_to=message)

    return answer


def failing(message: Message) -> Message:
    return error_reply(message, MmfedError(ExitCode.STORAGE, "its disk is full.", "make room."))


GOOD = {0: saying([1, 0, 0, 0.5], 2), 1: saying([0, 2, 0, 0.25], 3), 2: saying([0, 0, 1, 0], 1)}


class TwiceGrid(InProcessGrid):
    """Every reply comes twice, the latest first."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = list(super().send_and_receive(messages, timeout=timeout))
        return [*reversed(replies), *replies]


def asked(answers: dict[int, Answer], folder: Path, kind: type[InProcessGrid] = InProcessGrid):
    app, grid = ClientApp(), None

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        assert isinstance(grid, Grid)
        place = sorted(grid.get_node_ids()).index(message.metadata.dst_node_id)
        return answers[place](message)

    grid = kind(app, nodes=3, state_folder=folder)
    work = {
        node: tasks.Task(
            config=Config(),
            run_id="run-1",
            population=6,
            noise_multiplier=1.0,
            catalogue="0" * 64,
            round_number=2,
            users=np.array(USERS[place], dtype=np.uint64),
        )
        for place, node in enumerate(sorted(grid.get_node_ids()))
    }
    return sum_of_nodes(grid, tasks.EVALUATE, work, SHAPES, timeout=9.0, purpose="evaluation round")


def test_the_sum_over_all_users(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    total, users = asked(GOOD, tmp_path)
    assert total.tolist() == [1, 2, 1, 0.75]
    assert users == 6
    assert not caplog.records


def test_what_comes_twice_counts_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    total, users = asked(GOOD, tmp_path, TwiceGrid)
    assert (total.tolist(), users) == ([1, 2, 1, 0.75], 6)
    assert "answered before" in caplog.text


def test_the_order_of_replies_does_not_matter(tmp_path: Path) -> None:
    """These three numbers add up to another float in any other order of nodes."""
    small = {0: saying([0.1, 0, 0, 0], 2), 1: saying([0.2, 0, 0, 0], 3), 2: saying([0.3, 0, 0, 0], 1)}
    by_users = (0.2 + 0.1) + 0.3
    assert asked(small, tmp_path)[0][0] == asked(small, tmp_path, TwiceGrid)[0][0] == by_users != (0.3 + 0.2) + 0.1


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (failing, "its disk is full"),
        (saying([2, 2, 0, 0], 2), "larger than its users can make"),
        (saying([1, 0, 0, 0], 3), "larger than its users can make"),
        (saying([1e-3, 0, 0, 0], 0), "larger than its users can make"),
        (saying([float("inf"), 0, 0, 0], 2), ""),
        (saying([1, 0, 0], 2), ""),
        (saying([1, 0, 0, 0], 2, name="other"), ""),
    ],
    ids=["error", "norm", "users", "norm without users", "infinite", "shape", "name"],
)
def test_an_answer_that_does_not_hold_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: Answer, why: str
) -> None:
    caplog.set_level(logging.WARNING)
    total, users = asked({**GOOD, 0: bad}, tmp_path)
    assert (total.tolist(), users) == ([0, 2, 1, 0.25], 4)
    assert "the evaluation round goes on without node" in caplog.text
    assert why in caplog.text


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(MmfedError, match="the evaluation round: no node gave its sum") as fault:
        asked(dict.fromkeys(USERS, failing), tmp_path)
    assert fault.value.code is ExitCode.FEDERATION
    assert fault.value.message.count("its disk is full") == 1
