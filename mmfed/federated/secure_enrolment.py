"""Before the first round of mode ``user-distributed``: whose keys there are, and the roster that devices pin."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from flwr.app import Message
from flwr.serverapp import Grid

from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import faults, tasks
from mmfed.federated import secure_messages as messages
from mmfed.privacy.secure_aggregation.roster import Roster

_log = logging.getLogger(__name__)


def collect_identities(grid: Grid, task: tasks.Task, nodes: Iterable[int]) -> dict[int, bytes]:
    """The ed25519 public key of every node; each device then pins all of them.

    Raises:
        MmfedError: a node gives no key or will not pin the roster: it would be missing in every round.
    """
    wanted, identities = list(nodes), {}
    for node, reply in _ask(grid, task, messages.JOIN, wanted, {}):
        (key,) = messages.fields_of(reply.content, "identity")
        identities[node] = messages.one(key)
    roster = Roster.of(identities.values())
    if len(roster.keys) != len(identities):
        raise MmfedError(
            ExitCode.FEDERATION, "two nodes have the same key.", "give every device a state-dir of its own."
        )
    _ask(grid, task, messages.PIN, wanted, {"roster": sorted(roster.keys)})
    _log.info("roster of %d devices, fingerprint %s", len(roster.keys), roster.fingerprint)
    return identities


def _ask(
    grid: Grid, task: tasks.Task, kind: str, nodes: list[int], fields: messages.Fields
) -> list[tuple[int, Message]]:
    sent = [grid.create_message(messages.asking(task, fields), kind, node, "0") for node in nodes]
    found, wrong = {}, []
    for reply in grid.send_and_receive(sent, timeout=task.config.federation.round_timeout):
        node = reply.metadata.src_node_id
        if reply.has_error():
            wrong.append(f"node {node}: {faults.reason(reply.error)}")
        else:
            found[node] = reply
    silent = [f"node {node}: no reply" for node in nodes if node not in found]
    if wrong or silent:
        raise MmfedError(
            ExitCode.FEDERATION,
            f"secure aggregation cannot start ({faults.condensed(wrong or silent)}).",
            "mend or stop those devices, then start again.",
        )
    return list(found.items())
