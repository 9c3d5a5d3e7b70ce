"""A part of a node's work in a round, computed here or in a worker process: the sum of its users' updates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import Tensor

from mmfed.errors import MmfedError
from mmfed.federated import tasks, wire
from mmfed.federated.one_shot_terms import one_shot_shapes
from mmfed.federated.participant import Node, node_for
from mmfed.types import FloatArray

MESSAGES = (tasks.TRAIN, tasks.ONE_SHOT)
MODES = ("none", "user-central", "record")  # a node's reply is a sum over its users, so parts of it can be added


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the users that a message asks a node for.

    Attributes:
        message_type: ``tasks.TRAIN`` or ``tasks.ONE_SHOT``.
        settings: the node's config.
        task: of the message, with the users of this part.
    """

    message_type: str
    settings: Mapping[str, Any]
    task: tasks.Task


@dataclass(frozen=True, eq=False)
class PartUpdate:
    """A part's sum.

    Attributes:
        shapes: what the vector holds, in wire order.
        vector: float64, flat.
        realised: users in it.
    """

    shapes: wire.Shapes
    vector: FloatArray
    realised: int


class PartWork:
    """Computes parts, each with one thread; keeps the model of the round, decoded."""

    def __init__(self) -> None:
        self._arrays: ArrayRecord | None = None
        self._parameters: dict[str, Tensor] = {}

    def __call__(self, part: Part, arrays: ArrayRecord) -> PartUpdate | MmfedError:
        """The part's sum, or why the node cannot give it.

        Args:
            arrays: the model, as the message brought it.
        """
        try:
            node, task = node_for(part.task, part.settings)
            with one_thread():
                return self._computed(part.message_type, node, task, arrays)
        except MmfedError as fault:
            return fault

    def _computed(self, message_type: str, node: Node, task: tasks.Task, arrays: ArrayRecord) -> PartUpdate:
        if message_type == tasks.ONE_SHOT:
            shapes = one_shot_shapes(task.config, node.model.item_count, task.items)
            return PartUpdate(shapes, wire.flatten(node.cooccurrence(task), shapes), len(task.users))
        if self._arrays is not arrays:
            self._parameters = wire.decode(arrays, node.shapes | wire.public_shapes(node.model))
            self._arrays = arrays
        update = node.train(task, self._parameters)
        return PartUpdate(node.shapes, wire.flatten(update.total, node.shapes), update.realised)


def added(updates: list[PartUpdate]) -> PartUpdate:
    """The sum of the parts of a message, added in their order."""
    total = np.zeros_like(updates[0].vector)
    for update in updates:
        total += update.vector
    return PartUpdate(updates[0].shapes, total, sum(update.realised for update in updates))


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch with one thread: its rounding depends on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
