"""The in-process grid whose rounds are shared among worker processes; the same bits whatever their number."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from flwr.app import ArrayRecord, Message
from flwr.clientapp import ClientApp

from mmfed.errors import MmfedError
from mmfed.federated import tasks, wire
from mmfed.federated.faults import error_reply
from mmfed.federated.participant import node_for
from mmfed.models.base import Recommender, Scope
from mmfed.simulation.inprocess import InProcessGrid
from mmfed.simulation.part_work import MESSAGES, MODES, Part, PartUpdate, PartWork, added
from mmfed.simulation.parts import BLOCK, DEVICES, cut
from mmfed.simulation.worker_count import worthwhile
from mmfed.simulation.workers import Workers
from mmfed.training.cooccurrence import packed_size

Tell = Callable[[int], None]


@dataclass(eq=False)
class _Asked:
    """A message whose parts are computed apart, and what has come of them."""

    message: Message
    parts: list[Part]
    arrays: ArrayRecord
    done: dict[int, PartUpdate | MmfedError]

    def reply(self) -> Message | None:
        """The node's answer; None while a part is missing."""
        if len(self.done) < len(self.parts):
            return None
        updates = [self.done[place] for place in range(len(self.parts))]
        try:
            for update in updates:
                if isinstance(update, MmfedError):
                    raise update
            total = added([update for update in updates if isinstance(update, PartUpdate)])
            encoded = wire.encode(wire.unflatten(total.vector, total.shapes), total.shapes, dtype=np.float64)
        except MmfedError as fault:
            return error_reply(self.message, fault)
        return Message(tasks.training_reply(encoded, total.realised), reply_to=self.message)


class SharedGrid(InProcessGrid):
    """A grid that cuts the work of a round into parts (``parts.cut``) and has them computed by worker processes.

    Close it, or use it as a context: no worker outlives it. Messages that cannot be cut run in this process, as in the
    grid without workers; so does a round of a single part, with all threads.

    Args:
        app: of mmfed; its training handler is what ``PartWork`` computes by parts.
        workers: how many; None starts one per core after a round that shows that it pays.
        tell: called with the number of processes that compute, when it is settled for now.
    """

    def __init__(
        self, app: ClientApp, *, nodes: int, state_folder: Path, workers: int | None, tell: Tell | None = None
    ) -> None:
        super().__init__(app, nodes=nodes, state_folder=state_folder)
        self._count, self._tell, self._told = workers, tell, 0
        self._workers: Workers | None = None
        self._here = PartWork()
        if workers is not None and workers > 1:
            self._start(workers)  # they load while this process enrols

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Replies to the messages in their order, as the grid without workers gives them."""
        deadline = None if timeout is None else time.monotonic() + timeout
        sent = list(messages)
        asked = {place: found for place, one in enumerate(sent) if (found := self._cut(one)) is not None}
        count = sum(len(one.parts) for one in asked.values())
        if count < 2:
            if any(message.metadata.message_type == tasks.TRAIN for message in sent):
                self._settled(1 if self._workers is None else self._workers.count)
            return super().send_and_receive(sent, timeout=timeout)
        started = time.monotonic()
        self._compute(list(asked.values()), deadline)
        task = next(iter(asked.values())).parts[0].task
        self._choose(time.monotonic() - started, parts=count, task=task)
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        rest = [message for place, message in enumerate(sent) if place not in asked]
        others = {one.metadata.reply_to_message_id: one for one in super().send_and_receive(rest, timeout=left)}
        replies = (
            asked[place].reply() if place in asked else others.get(message.metadata.message_id)
            for place, message in enumerate(sent)
        )
        return [reply for reply in replies if reply is not None]

    def _compute(self, asked: list[_Asked], deadline: float | None) -> None:
        work = [(part, one.arrays) for one in asked for part in one.parts]
        places = [(one, place) for one in asked for place in range(len(one.parts))]
        if self._workers is not None:
            computed = self._workers.run(work, deadline=deadline)
        else:
            computed = self._computed_here(work, deadline)
        for number, update in computed:
            one, place = places[number]
            one.done[place] = update

    def _computed_here(
        self, work: list[tuple[Part, ArrayRecord]], deadline: float | None
    ) -> Iterator[tuple[int, PartUpdate | MmfedError]]:
        for number, (part, arrays) in enumerate(work):
            if deadline is not None and time.monotonic() > deadline:
                return
            yield number, self._here(part, arrays)

    def _cut(self, message: Message) -> _Asked | None:
        """The parts of a message; None for one that is not ours to cut."""
        if message.metadata.message_type not in MESSAGES:
            return None
        try:
            task, arrays = tasks.read_task(message.content)
            if task.config.privacy.mode not in MODES:
                return None
            settings = self.settings(message.metadata.dst_node_id)
            parts = [Part(message.metadata.message_type, settings, one) for one in _tasks(message, task, settings)]
        except MmfedError:
            return None  # the app answers with the fault
        return _Asked(message, parts, arrays, {})

    def _choose(self, seconds: float, *, parts: int, task: tasks.Task) -> None:
        """After a round that was computed here: whether workers pay from now on."""
        if self._workers is None and self._count is None and task.round_number:
            count = worthwhile(seconds, parts=parts, rounds_left=task.config.federation.rounds - task.round_number)
            if count > 1:
                self._start(count)
        if task.round_number:
            self._settled(1 if self._workers is None else self._workers.count)

    def _start(self, count: int) -> None:
        self._workers = Workers(count)

    def _settled(self, count: int) -> None:
        if self._tell is not None and count != self._told:
            self._tell(count)
        self._told = count


def _tasks(message: Message, task: tasks.Task, settings: Mapping[str, Any]) -> list[tasks.Task]:
    """The task, cut by users; whole where there are too few of them to look at."""
    record = task.config.privacy.mode == "record"
    if len(task.users) < 2 * min(BLOCK, DEVICES):
        return [task]
    node, _ = node_for(task, settings)
    model, one_shot = node.model, message.metadata.message_type == tasks.ONE_SHOT
    numbers, products = (packed_size(model.item_count), 0) if one_shot else (_numbers(model), _products(model))
    if not one_shot and _encoded_once(task, model):
        return [task]
    lengths = node.workspace.split.train.lengths[node.chosen(task)]
    places = cut(lengths, numbers=numbers, products=products, device_by_device=record and not one_shot)
    if len(places) > 1:
        node.prepare()
    return [replace(task, users=task.users[place]) for place in places]


def _encoded_once(task: tasks.Task, model: Recommender) -> bool:
    """Whether a trained encoder reads the catalogue once for everybody, which is most of the work."""
    trained = any(plan.inputs is not None for plan in model.features.planned(Scope.SHARED).values())
    training = task.config.training
    return trained and task.config.privacy.mode == "none" and training.steps == 1 and training.epochs is None


def _numbers(model: Recommender) -> int:
    return sum(value.numel() for value in model.shared_parameters().values())


def _products(model: Recommender) -> int:
    return model.item_count * sum(value.shape[1] for value in model.features.values) * model.dimensions
