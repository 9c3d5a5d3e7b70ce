"""A federation in one process whose every message is seen, and whose nodes can be replaced by fakes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from mmfed.config import Config
from mmfed.federated import tasks
from mmfed.federated.coordinator import coordinate
from mmfed.federated.participant import client_app
from mmfed.records import RunFolder
from mmfed.simulation.inprocess import InProcessGrid

Fake = Callable[[Message, Callable[[], Message]], list[Message]]


@dataclass
class SpyingGrid(Grid):
    """Passes messages on and keeps them; ``fakes`` answer in the place of a node's ClientApp.

    A fake gets the message and a way to call the real app, and gives any number of replies.
    """

    inner: InProcessGrid
    fakes: dict[int, Fake] = field(default_factory=dict)
    sent: list[Message] = field(default_factory=list)
    received: list[Message] = field(default_factory=list)

    def set_run(self, run: object) -> None: ...

    @property
    def run(self) -> object:  # type: ignore[override]
        return None

    def create_message(self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl=None):  # type: ignore[override]
        return self.inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        return self.inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = []
        for message in messages:
            self.sent.append(message)

            def real(message: Message = message) -> Message:
                return next(iter(self.inner.send_and_receive([message])))

            fake = self.fakes.get(message.metadata.dst_node_id)
            kind = message.metadata.message_type
            training = kind == tasks.TRAIN or kind.startswith("train.secure_")
            replies += [real()] if fake is None or not training else fake(message, real)
        self.received += replies
        return replies


def federate(
    config: Config, *, nodes: int = 2, fakes: dict[int, Fake] | None = None, resume: bool = False
) -> tuple[RunFolder, SpyingGrid]:
    """Run the coordinator with real apps and the given fakes."""
    run = RunFolder(config.run.folder / config.run.name)
    grid = SpyingGrid(InProcessGrid(client_app(), nodes=nodes, state_folder=run.devices), fakes or {})
    coordinate(grid, config, run, None, resume=resume)
    return run, grid


def device(config: Config, folder: Path, *, partition: int = 0, partitions: int = 1, **settings: str):
    """A function from a task's content to the reply of one node's real ClientApp."""
    app = client_app()
    context = Context(
        run_id=1,
        node_id=1,
        node_config={
            "partition-id": partition,
            "num-partitions": partitions,
            "state-dir": str(folder),
            **settings,
        },
        state=RecordDict(),
        run_config={},
    )
    grid = InProcessGrid(app, nodes=1, state_folder=folder)

    def answer(content: RecordDict, kind: str = tasks.TRAIN) -> Message:
        return app(grid.create_message(content, kind, 1, "1"), context)

    return answer
