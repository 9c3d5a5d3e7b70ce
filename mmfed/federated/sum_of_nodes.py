"""One question to every node, and the sum of the answers that hold: the one-shot round and the evaluation round."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping

import numpy as np
from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import faults, tasks, wire
from mmfed.types import FloatArray

_log = logging.getLogger(__name__)


def sum_of_nodes(
    grid: Grid,
    kind: str,
    asked: Mapping[int, tasks.Task],
    shapes: wire.Shapes,
    *,
    timeout: float,
    purpose: str,
    arrays: ArrayRecord | None = None,
    check: Callable[[FloatArray], object] | None = None,
    noise: float = 0.0,
) -> tuple[FloatArray, int]:
    """[size of the array] the sum over the users that answered, and how many these are.

    Every user adds a vector of norm 1 at most; a node whose answer is larger than that and their noise is left out.
    Answers are added in the order of the nodes' users: the same in every run, whatever ids Flower draws.

    Args:
        kind: of message.
        asked: the task of every node, by node id.
        shapes: the one array that an answer holds.
        timeout: seconds to wait for nodes.
        purpose: the name of the round in messages.
        arrays: the model, where it goes with the question.
        check: raises ``MmfedError`` for an answer that cannot be; None for none but the norm.
        noise: deviation that every user adds to each coordinate; 0 where users add none.

    Raises:
        MmfedError: no node answers.
    """
    messages = [
        grid.create_message(tasks.task_content(task, arrays), kind, node, str(task.round_number))
        for node, task in asked.items()
    ]
    order = {node: min(task.users.tolist(), default=-1) for node, task in asked.items()}
    replies = sorted(
        grid.send_and_receive(messages, timeout=timeout), key=lambda reply: order.get(reply.metadata.src_node_id, -1)
    )
    ((name, shape),) = shapes.items()
    total, users_in, refused, waiting = np.zeros(shape), 0, [], set(asked)
    for reply in replies:
        node = reply.metadata.src_node_id
        try:
            if node not in waiting:
                raise MmfedError(ExitCode.FEDERATION, "nobody asked it, or it answered before", "look at the node.")
            waiting.remove(node)
            vector, realised = _checked(reply, name, shape, most=len(asked[node].users), noise=noise)
            if check is not None:
                check(vector)
        except MmfedError as fault:
            refused.append(f"node {node}: {fault.message}")
            continue
        total += vector
        users_in += realised
    if not users_in:
        raise MmfedError(
            ExitCode.FEDERATION,
            f"the {purpose}: no node gave its sum ({faults.condensed(refused) or 'no reply'}).",
            "look at the nodes and start again; raise federation.round_timeout if they were only slow.",
        )
    if refused:
        _log.warning("the %s goes on without %s", purpose, faults.condensed(refused))
    return total, users_in


def _checked(reply: Message, name: str, shape: tuple[int, ...], *, most: int, noise: float) -> tuple[FloatArray, int]:
    """The array of one answer and the users in it, of whom there are ``most``."""
    if reply.has_error():
        raise MmfedError(ExitCode.FEDERATION, faults.reason(reply.error), "look at the node's log.")
    arrays, realised = tasks.read_training_reply(reply.content)
    vector = wire.decode(arrays, {name: shape})[name].double().numpy()
    added = noise * math.sqrt(realised) * (math.sqrt(vector.size) + 8.0)  # honest noise is longer once in 1e14
    if realised > most or not np.linalg.norm(vector) <= realised * (1 + 1e-6) + added:
        raise MmfedError(ExitCode.FEDERATION, "a sum larger than its users can make", "update the node.")
    return vector, realised
