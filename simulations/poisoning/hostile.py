"""Hostile devices on the in-process grid: each enrols as one more user and answers what the coordinator asks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from flwr.app import Message
from flwr.clientapp import ClientApp
from torch import Tensor

from mmfed.data.schema import Action, Interactions, group_by_user
from mmfed.federated import tasks, wire
from mmfed.federated.one_shot_terms import one_shot_shapes
from mmfed.federated.participant import Node
from mmfed.federated.workspace import Workspace
from mmfed.rng import numpy_generator
from mmfed.simulation.inprocess import InProcessGrid
from mmfed.types import IntArray
from simulations.poisoning.attacks import (
    POPULAR,
    READ,
    READERS,
    TOGETHER,
    Attack,
    Forge,
    Kind,
    fake_history,
    fillers,
    forged_cooccurrence,
    forged_popularity,
    forger,
)


@dataclass(eq=False)
class HostileDevice:
    """One hostile user. It trains on a history that never was or, with ``forge``, sends what no training gave.

    Attributes:
        node: the honest code, over fake histories.
        user: the own index in them.
        kind: of the attack.
        forge: makes the update; None trains honestly.
        beside: items that a forged one-shot sum has the target beside; None sums honestly.
        target: the item to push.
        boost: where nobody bounds an update: how many times as long as the own honest one it is.
        first_round: before it, the device sends nothing but zeros.
    """

    node: Node
    user: int
    kind: Kind
    forge: Forge | None
    beside: IntArray | None
    target: int
    boost: float
    first_round: int = 1

    def __call__(self, message: Message) -> Message:
        """The reply to a message of any kind."""
        task, arrays = tasks.read_task(message.content)
        node, kind = self.node, message.metadata.message_type
        if kind == tasks.ENROL:
            own = node.keys[self.user : self.user + 1]
            return Message(tasks.enrolment_reply(own, node.workspace.features.digest), reply_to=message)
        if kind == tasks.ONE_SHOT:
            shapes = one_shot_shapes(task.config, node.model.item_count, task.items)
            encoded = wire.encode(self.one_shot(task), shapes, dtype=np.float64)
            return Message(tasks.training_reply(encoded, 1), reply_to=message)
        parameters = wire.decode(arrays, node.shapes | wire.public_shapes(node.model))
        update = self.update(task, parameters)
        encoded = wire.encode(update, node.shapes, dtype=np.float64)
        return Message(tasks.training_reply(encoded, 1), reply_to=message)

    def one_shot(self, task: tasks.Task) -> dict[str, Tensor]:
        """What it sends in the one-shot round."""
        if self.beside is None:
            return self.node.cooccurrence(task)
        items = self.node.model.item_count
        if task.config.privacy.mode != "none" and task.items is None:
            return {"popularity": torch.from_numpy(forged_popularity(self.target, items))}
        covered = np.arange(items) if task.items is None else task.items
        return {"cooccurrence": torch.from_numpy(forged_cooccurrence(self.kind, self.target, self.beside, covered))}

    def update(self, task: tasks.Task, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """What it sends in a training round."""
        honest = self.node.train(task, parameters).total  # also puts the parameters into the node's model
        if task.round_number < self.first_round:
            return {name: torch.zeros_like(value) for name, value in honest.items()}
        if self.forge is None:
            return honest
        privacy = task.config.privacy
        bound = task.config.defence.norm_bound if privacy.mode == "none" else privacy.clip_norm
        if bound is None:
            bound = self.boost * float(np.linalg.norm(wire.flatten(honest, self.node.shapes)))
        return self.forge(self.node.model, bound)


class HostileGrid(InProcessGrid):
    """One honest node with all users of the shop, and a node for each hostile device."""

    def __init__(self, app: ClientApp, hostile: list[HostileDevice], *, state_folder: Path) -> None:
        super().__init__(app, nodes=1, state_folder=state_folder)
        self._hostile = dict(enumerate(hostile, start=2))

    def get_node_ids(self) -> Iterable[int]:
        """The honest node and the hostile ones."""
        return [1, *self._hostile]

    def _deliver(self, message: Message) -> Message:
        device = self._hostile.get(message.metadata.dst_node_id)
        return super()._deliver(message) if device is None else device(message)


def hostile_devices(
    attack: Attack, workspace: Workspace, target: int, *, seed: int, state_folder: Path
) -> list[HostileDevice]:
    """The devices of an attack on a shop."""
    count = attack.devices(workspace.shop.interactions.user_count)
    popularity, generator = workspace.train_users, numpy_generator(seed, "hostile", attack.kind)
    fakes = fake_interactions(
        [fake_history(target, fillers(attack.kind, popularity, generator)) for _ in range(count)],
        item_count=workspace.shop.catalogue.size,
    )
    empty = fakes.keep_rows(np.zeros(len(fakes), dtype=bool))
    shop = replace(workspace.shop, interactions=fakes, own=None, people=None)
    split = replace(workspace.split, train=fakes, validation=empty, test=empty)
    node = Node(Workspace(workspace.config, shop, split, workspace.features), np.arange(count), state_folder)
    readers = np.stack([fillers("promotion", popularity, generator, READ) for _ in range(READERS)])
    forge = forger(attack.kind, target, readers) if attack.kind in ("promotion", "row") else None
    beside = np.argsort(-popularity, kind="stable")[:POPULAR] if attack.kind in ("pairs", "basket") else None
    boost = max(1.0, TOGETHER / attack.share)
    return [
        HostileDevice(node, user, attack.kind, forge, beside, target, boost, attack.first_round)
        for user in range(count)
    ]


def fake_interactions(histories: list[IntArray], *, item_count: int) -> Interactions:
    """Purchases of users that do not exist."""
    lengths = [len(one) for one in histories]
    items = np.concatenate(histories)
    return group_by_user(
        user_ids=[f"hostile-{user}" for user in range(len(histories))],
        users=np.repeat(np.arange(len(histories)), lengths),
        items=items,
        times=np.concatenate([1_700_000_000 + 3600 * np.arange(length) for length in lengths]),
        actions=np.full(len(items), int(Action.BUY)),
        values=np.full(len(items), np.nan),
        item_count=item_count,
    )
