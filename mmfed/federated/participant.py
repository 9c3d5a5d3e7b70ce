"""The device side of a round: what answers the coordinator's messages.

A node holds one user (a device) or many (a simulated cohort); the code is the same. Only ``wire.encode`` makes arrays
of a reply, and it knows shared parameters only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from mmfed.data.partition import partition_users
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import tasks, wire
from mmfed.federated.device_account import DeviceAccount
from mmfed.federated.device_policy import check_policy
from mmfed.federated.device_store import DeviceStore, PrivateVectors
from mmfed.federated.device_vault import device_vault
from mmfed.federated.evaluation_round import check_evaluation, layout_of, metric_shapes, users_metrics
from mmfed.federated.faults import faults_as_replies
from mmfed.federated.lifetime import Lifetime, lifetime_of
from mmfed.federated.one_shot_devices import noised_statistics
from mmfed.federated.one_shot_sum import cooccurrence_decay
from mmfed.federated.one_shot_terms import ROUND, check_one_shot, one_shot_shapes
from mmfed.federated.participation import ParticipationAccount
from mmfed.federated.sealed_store import SealedStore
from mmfed.federated.secure_participant import add_secure_steps, check_unmasked
from mmfed.federated.workspace import Workspace, histories_of, load_workspace
from mmfed.models.base import Recommender
from mmfed.privacy.vault import Vault
from mmfed.training.batch import Histories
from mmfed.training.cohort import train_cohort
from mmfed.training.cooccurrence import banded_cooccurrence, packed, popularity_counts
from mmfed.training.record import Device, train_devices_privately, windows
from mmfed.training.record_cohort import devices_at_once
from mmfed.training.reference import train_users
from mmfed.training.update import CohortUpdate, LocalWork
from mmfed.types import FloatArray, IntArray


def client_app(state_folder: Path | None = None) -> ClientApp:
    """The Flower ClientApp of a device or of a node of a simulation.

    Args:
        state_folder: where private state is kept; None takes the node's ``state-dir``, or ``~/.local/state/mmfed``.
    """
    app = ClientApp()

    @app.query()
    @faults_as_replies
    def enrol(message: Message, context: Context) -> Message:
        node, _ = _node(message, context, state_folder)
        reply = tasks.enrolment_reply(node.keys, node.workspace.features.digest)
        return Message(reply, reply_to=message)

    @app.train()
    @faults_as_replies
    def train(message: Message, context: Context) -> Message:
        node, task = _node(message, context, state_folder)
        check_unmasked(task)
        _, arrays = tasks.read_task(message.content)
        update = node.train(task, wire.decode(arrays, node.shapes | wire.public_shapes(node.model)))
        encoded = wire.encode(update.total, node.shapes, dtype=np.float64)
        within = None if task.clip_norm is None else update.within
        return Message(tasks.training_reply(encoded, update.realised, within), reply_to=message)

    @app.evaluate()
    @faults_as_replies
    def evaluate(message: Message, context: Context) -> Message:
        node, task = _node(message, context, state_folder)
        _, arrays = tasks.read_task(message.content)
        figures = node.metrics(task, wire.decode(arrays, node.shapes | wire.public_shapes(node.model)))
        encoded = wire.encode(figures, metric_shapes(layout_of(task.config, node.model.item_count)), dtype=np.float64)
        return Message(tasks.training_reply(encoded, len(task.users)), reply_to=message)

    @app.train("one_shot")
    @faults_as_replies
    def one_shot(message: Message, context: Context) -> Message:
        node, task = _node(message, context, state_folder)
        check_unmasked(task)
        shapes = one_shot_shapes(task.config, node.model.item_count, task.items)
        if task.config.privacy.mode == "user-local":
            total, realised = noised_statistics(node, task)
            named = wire.unflatten(total, shapes)
        else:
            named, realised = node.cooccurrence(task), len(task.users)
        return Message(tasks.training_reply(wire.encode(named, shapes, dtype=np.float64), realised), reply_to=message)

    add_secure_steps(app, lambda message, context: _node(message, context, state_folder))
    return app


@dataclass(eq=False)
class Node:
    """One node: its users, its model skeleton, its private state.

    Attributes:
        workspace: catalogue and interactions.
        users: indices of the node's users in the workspace.
        state_folder: private state of this node's users.
        lifetime: the owner's bound on ε over all runs; None for none.
        vault: what seals that state on a real device; None keeps it in clear (a simulation).
    """

    workspace: Workspace
    users: IntArray
    state_folder: Path
    vault: Vault | None = None
    lifetime: Lifetime | None = None
    model: Recommender = field(init=False)
    shapes: wire.Shapes = field(init=False)
    keys: IntArray = field(init=False)
    _order: IntArray = field(init=False)

    def __post_init__(self) -> None:
        self.model = self.workspace.new_model()
        self.shapes = wire.shared_shapes(self.model)
        self.keys = self.workspace.user_keys[self.users]
        self._order = np.argsort(self.keys)

    def train(self, task: tasks.Task, parameters: dict[str, Tensor]) -> CohortUpdate:
        """One round for the chosen users of this node.

        Raises:
            MmfedError: the coordinator holds another catalogue, asks for users who are not here, or calls it a round
                before the first, where ledgers hold the one-shot release, which is charged by other terms.
        """
        if task.round_number <= ROUND:
            raise MmfedError(
                ExitCode.PRIVACY,
                f"the coordinator asks for training in round {task.round_number}; rounds begin at 1.",
                "nothing was sent; run the same mmfed version on the coordinator and on every device.",
            )
        chosen = self.chosen(task)
        with torch.no_grad():
            for name, tensor in (self.model.shared_parameters() | self.model.public_tensors()).items():
                tensor.copy_(parameters[name])
        config, privacy = task.config, task.config.privacy
        if (task.clip_norm is not None) != (privacy.clipping == "adaptive"):
            raise MmfedError(
                ExitCode.FEDERATION,
                f"round {task.round_number}: the coordinator moves the clip norm and privacy.clipping does not say so, "
                "or the other way round.",
                "run the same mmfed version on the coordinator and on every device.",
            )
        if task.clip_norm is not None:
            privacy = privacy.model_copy(update={"clip_norm": task.clip_norm})
        work = LocalWork(
            training=config.training,
            privacy=privacy,
            seed=config.run.seed,
            round_number=task.round_number,
            norm_bound=config.defence.norm_bound,
        )
        if config.privacy.mode == "record":
            return self._train_records(chosen, work, task)
        if config.privacy.mode == "user-local":
            return self._train_locally(chosen, work, task)
        if config.privacy.mode == "user-ftrl":
            accounts = [
                ParticipationAccount(
                    self.state_folder, int(self.workspace.user_keys[user]), task, self.vault, self.lifetime
                )
                for user in chosen.tolist()
            ]
            chosen = chosen[np.array([one.takes_part() for one in accounts], dtype=bool)]
        store = self._store()
        if store is None:
            vectors = torch.zeros(len(chosen), self.model.private_dimensions)
        else:
            vectors = torch.from_numpy(store.before(self._place(chosen), task.round_number))
        train = train_users if config.training.engine == "reference" else train_cohort
        update = train(self.model, self.workspace.histories.take(chosen), vectors, work)
        if store is not None:
            store.put(self._place(chosen), task.round_number, update.user_vectors.numpy())
        return update

    def prepare(self) -> None:
        """Make the files of private state, before several processes write the rows of their own users in them."""
        self._store()

    def metrics(self, task: tasks.Task, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sum of the chosen users' own test figures and lists; the coordinator adds noise (``release_metrics``).

        Raises:
            MmfedError: as ``train``; the mode does not trust the server with this sum; or the owner bounds ε over all
                runs, which the coordinator's ledger alone would count.
        """
        check_evaluation(task.config)
        if self.lifetime is not None:
            raise MmfedError(
                ExitCode.PRIVACY,
                "the device's owner bounds epsilon over all runs (max-total-epsilon); figures would not be counted.",
                "evaluate with other devices.",
            )
        chosen = self.chosen(task)
        with torch.no_grad():
            for name, tensor in (self.model.shared_parameters() | self.model.public_tensors()).items():
                tensor.copy_(parameters[name])
        vectors, store = None, self._store()
        if store is not None:
            vectors = np.zeros((self.workspace.shop.interactions.user_count, self.model.private_dimensions))
            vectors[chosen] = store.before(self._place(chosen), _LATEST)
        return users_metrics(self.model, self.workspace, chosen, vectors)

    def single_updates(self, task: tasks.Task, parameters: dict[str, Tensor]) -> Iterator[tuple[int, FloatArray]]:
        """The clipped update of each chosen user alone, as a flat vector, with the user's key.

        Raises:
            MmfedError: as ``train``.
        """
        for key in task.users:
            alone = self.train(replace(task, users=np.array([key], dtype=np.uint64)), parameters)
            yield int(key), wire.flatten(alone.total, self.shapes)

    def cooccurrence(self, task: tasks.Task) -> dict[str, Tensor]:
        """The one-shot sums over the chosen users of this node, without noise.

        In ``user-central`` the coordinator adds it; where devices do (``one_shot_devices``), this never leaves.

        Raises:
            MmfedError: as ``train``; or the run's privacy mode has no one-shot release.
        """
        chosen = self.chosen(task)
        items = self.model.item_count
        check_one_shot(task.config, items)
        histories = histories_of(self.workspace.split.train, self.workspace.user_keys)  # own content is no item
        mine = histories.take(chosen)
        if task.config.privacy.mode != "none" and task.items is None:
            return {"popularity": torch.from_numpy(popularity_counts(mine, items))}
        if task.items is not None and len(task.items) and task.items[-1] >= items:
            raise MmfedError(ExitCode.FEDERATION, "the coordinator asks for items that do not exist.", "restart it.")
        covered = None if task.config.privacy.mode == "none" else task.items
        total = banded_cooccurrence(mine, items, decay=cooccurrence_decay(task.config), covered=covered)
        return {"cooccurrence": torch.from_numpy(packed(total))}

    def chosen(self, task: tasks.Task) -> IntArray:
        """Indices of the users a task asks for, in its order.

        Raises:
            MmfedError: as ``train``.
        """
        if task.catalogue != self.workspace.features.digest:
            raise MmfedError(
                ExitCode.FEDERATION,
                "the coordinator's catalogue features differ from this node's (digests do not match).",
                "give every party the same catalogue and encoders (special features for one device are caught).",
            )
        order = self._order
        place = np.minimum(np.searchsorted(self.keys, task.users, sorter=order), max(len(order) - 1, 0))
        unknown = not len(order) or bool((self.keys[order[place]] != task.users).any())
        if (unknown and len(task.users)) or len(np.unique(task.users)) != len(task.users):
            raise MmfedError(
                ExitCode.FEDERATION,
                f"round {task.round_number}: the coordinator asked for users not on this node, or for one twice.",
                "restart the run, so that users enrol again.",
            )
        return self.users[order[place]]

    def _train_records(self, chosen: IntArray, work: LocalWork, task: tasks.Task) -> CohortUpdate:
        """Record-level privacy: every user trains, adds noise and charges the own ledger before the update leaves."""
        total = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in self.shapes.items()}
        realised, most = 0, devices_at_once(self.model)
        for start in range(0, len(chosen), most):
            accounts, devices = [], []
            for user in chosen[start : start + most].tolist():
                account = DeviceAccount(
                    self.state_folder, int(self.workspace.user_keys[user]), task, self.vault, self.lifetime
                )
                if account.admits():
                    accounts.append(account)
                    devices.append(Device(self._windows(user, work), account.noise, account.sample_key))
            changes = train_devices_privately(self.model, devices, work, noise_multiplier=task.noise_multiplier)
            for account, change in zip(accounts, changes, strict=True):
                if not account.charge(wire.flatten(change, self.shapes)):
                    continue
                for name, value in change.items():
                    total[name] += value
                realised += 1
        return CohortUpdate(total, realised, torch.zeros(0, self.model.private_dimensions))

    def _windows(self, user: int, work: LocalWork) -> Histories:
        """The records of a user."""
        train, privacy = self.workspace.split.train, work.privacy
        rows, key = train.rows(user), int(self.workspace.user_keys[user])
        return windows(train.items[rows], train.times[rows], key=key, window=privacy.window, days=privacy.window_days)

    def _train_locally(self, chosen: IntArray, work: LocalWork, task: tasks.Task) -> CohortUpdate:
        """User-level privacy of the device's own: every user's whole update is clipped, noised and charged before it
        meets any other."""
        total = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in self.shapes.items()}
        realised, store = 0, self._store()
        train = train_users if task.config.training.engine == "reference" else train_cohort
        for user in chosen.tolist():
            account = DeviceAccount(
                self.state_folder, int(self.workspace.user_keys[user]), task, self.vault, self.lifetime
            )
            if not account.admits():
                continue
            one, place = np.array([user]), self._place(np.array([user]))
            vectors = torch.zeros(1, self.model.private_dimensions)
            if store is not None:
                vectors = torch.from_numpy(store.before(place, task.round_number))
            update = train(self.model, self.workspace.histories.take(one), vectors, work)
            noised = account.mechanism().release(
                wire.flatten(update.total, self.shapes), round_number=task.round_number
            )
            if not account.charge(noised):
                continue
            for name, value in wire.unflatten(noised, self.shapes).items():
                total[name] += value
            if store is not None:
                store.put(place, task.round_number, update.user_vectors.numpy())
            realised += 1
        return CohortUpdate(total, realised, torch.zeros(0, self.model.private_dimensions))

    def _store(self) -> PrivateVectors | None:
        dimensions = self.model.private_dimensions
        if not dimensions:
            return None
        folder, users = self.state_folder / "vectors", len(self.users)
        if self.vault is None:
            return DeviceStore(folder, users=users, dimensions=dimensions)
        return SealedStore(folder, users=users, dimensions=dimensions, vault=self.vault)

    def _key(self, user: int) -> int:
        return int(self.workspace.user_keys[user])

    def _place(self, chosen: IntArray) -> IntArray:
        return np.searchsorted(self.users, chosen)


_LATEST = 2**62  # a round after every round
_NODES: dict[tuple[Any, ...], Node] = {}


def _node(message: Message, context: Context, state_folder: Path | None) -> tuple[Node, tasks.Task]:
    """The node a message is for, and its task."""
    task, _ = tasks.read_task(message.content)
    return node_for(task, context.node_config, state_folder)


def node_for(
    task: tasks.Task, settings: Mapping[str, Any], state_folder: Path | None = None
) -> tuple[Node, tasks.Task]:
    """A node by its settings (Flower's node config), loaded once per process, and the task with the node's own paths.

    Raises:
        MmfedError: the shop, its encoders or its vault cannot be had, or the node's policy refuses the task.
    """
    config = task.config
    if "data-dir" in settings:
        data = config.data.model_copy(update={"path": Path(str(settings["data-dir"])).expanduser()})
        # On a real device the coordinator does not choose where files are written.
        cache = Path(str(settings["cache-dir"])).expanduser() if "cache-dir" in settings else None
        features = config.features.model_copy(update={"cache": cache})
        config = config.model_copy(update={"data": data, "features": features})
    check_policy(settings, config)
    partition = int(settings.get("partition-id", 0)), int(settings.get("num-partitions", 1))
    state = (state_folder or Path(str(settings.get("state-dir", "~/.local/state/mmfed"))).expanduser()).absolute()
    vault, lifetime = device_vault(settings, state), lifetime_of(settings, state, config.privacy.mode)
    if vault is not None:  # whatever the coordinator asks, people's interactions get no second copy, in clear
        in_memory = config.data.model_copy(update={"on_disk": "never"})
        config = config.model_copy(update={"data": in_memory})
    folder = state / task.run_id / f"node-{partition[0]}-of-{partition[1]}"
    workspace = load_workspace(config, own_vault=vault)
    held = (id(workspace), partition, str(folder), config.model, os.getpid(), lifetime)
    node = _NODES.get(held)
    if node is None:
        users = partition_users(workspace.shop.interactions.user_count, partition[1], partition[0])
        node = Node(workspace, np.sort(users), folder, vault, lifetime)
        if len(_NODES) >= 64:
            _NODES.clear()
        _NODES[held] = node
    return node, replace(task, config=config)
