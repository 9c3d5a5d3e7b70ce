"""The in-process grid: messages go straight from the ServerApp to the ClientApp of this process, one node at a time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.app.metadata import Metadata
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

_TTL = 12 * 3600.0  # seconds


class InProcessGrid(Grid):
    """A grid of ``nodes`` nodes that all run ``app`` in this process.

    Node ids are 1 … nodes; a node's config carries ``partition-id`` and ``num-partitions`` as Flower's simulation does.
    """

    def __init__(self, app: ClientApp, *, nodes: int, state_folder: Path) -> None:
        self._app = app
        self._contexts = {
            node: Context(
                run_id=1,
                node_id=node,
                node_config={"partition-id": node - 1, "num-partitions": nodes, "state-dir": str(state_folder)},
                state=RecordDict(),
                run_config={},
            )
            for node in range(1, nodes + 1)
        }
        self._pending: dict[str, Message] = {}
        self._numbers = itertools.count(1)

    def settings(self, node: int) -> dict[str, bool | float | int | str]:
        """A node's config."""
        return dict(self._contexts[node].node_config)

    def set_run(self, run: object) -> None:
        """Nothing depends on Flower's run record here."""

    @property
    def run(self) -> object:  # type: ignore[override]
        """There is no Flower run."""
        return None

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a node."""
        metadata = Metadata(
            run_id=1,
            message_id=f"message-{next(self._numbers)}",
            src_node_id=0,
            dst_node_id=dst_node_id,
            reply_to_message_id="",
            group_id=group_id,
            created_at=time.time(),
            ttl=ttl or _TTL,
            message_type=message_type,
        )
        return Message(content, metadata=metadata)  # type: ignore[call-overload]

    def get_node_ids(self) -> Iterable[int]:
        """All nodes, always connected."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; ``pull_messages`` runs them."""
        queued = {message.metadata.message_id: message for message in messages}
        self._pending |= queued
        return list(queued)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the queued messages and return the replies."""
        return [self._deliver(self._pending.pop(identifier)) for identifier in message_ids]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Replies to the messages, computed now (the app answers a fault with an error reply)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        replies = []
        for message in messages:
            if deadline is not None and time.monotonic() > deadline:
                break
            replies.append(self._deliver(message))
        return replies

    def _deliver(self, message: Message) -> Message:
        return self._app(message, self._contexts[message.metadata.dst_node_id])


def run_inprocess(
    server: ServerApp, client: ClientApp, *, nodes: int, state_folder: Path, run_config: dict[str, str]
) -> None:
    """Run a federation in this process.

    Raises:
        MmfedError: whatever stopped the coordinator.
    """
    run_on(InProcessGrid(client, nodes=nodes, state_folder=state_folder), server, run_config)


def run_on(grid: Grid, server: ServerApp, run_config: dict[str, str]) -> None:
    """Run a coordinator on a grid of this process.

    Raises:
        MmfedError: whatever stopped the coordinator.
    """
    server(grid, Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=dict(run_config)))
