"""The device side of mode ``user-distributed``: bounded integers with a share of the noise, masked before they leave.

The secrets of a round live in the node's Flower context, in memory: a node that is restarted has dropped out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import secure_messages as messages
from mmfed.federated import tasks, wire
from mmfed.federated.faults import faults_as_replies
from mmfed.federated.one_shot_devices import single_statistics
from mmfed.federated.one_shot_terms import LINES, ROUND, check_offer, sum_name, sum_noise
from mmfed.federated.secure_account import SecureAccount
from mmfed.federated.secure_roster import pinned_roster
from mmfed.federated.secure_terms import round_noise
from mmfed.privacy.distributed import DistributedNoise
from mmfed.privacy.keys import load_or_create_key, load_or_create_sealed_key
from mmfed.privacy.random_words import RandomWords, SecureWords, SeededWords
from mmfed.privacy.secure_aggregation.advertisement import Advertisement
from mmfed.privacy.secure_aggregation.context import RoundContext
from mmfed.privacy.secure_aggregation.device import Device
from mmfed.privacy.secure_aggregation.ring import Ring
from mmfed.privacy.secure_aggregation.sealed_share import SealedShare
from mmfed.rng import derive
from mmfed.types import IntArray

if TYPE_CHECKING:
    from mmfed.federated.participant import Node

_STATE = "secure-round"
FindNode = Callable[[Message, Context], "tuple[Node, tasks.Task]"]


def add_secure_steps(app: ClientApp, find: FindNode) -> None:
    """Give a ClientApp the handlers of secure aggregation.

    Args:
        find: the node and the task of a message.
    """

    @app.query("secure_join")
    @faults_as_replies
    def join(message: Message, context: Context) -> Message:
        node, _ = find(message, context)
        own = identity_of(node).public_key().public_bytes_raw()
        return Message(messages.replying({"identity": own}), reply_to=message)

    @app.query("secure_pin")
    @faults_as_replies
    def pin(message: Message, context: Context) -> Message:
        node, _ = find(message, context)
        (keys,) = messages.fields_of(message.content, "roster")
        roster = pinned_roster(node.state_folder, context.node_config, messages.many(keys))
        return Message(messages.replying({"fingerprint": bytes.fromhex(roster.fingerprint)}), reply_to=message)

    @app.train("secure_advertise")
    @faults_as_replies
    def advertise(message: Message, context: Context) -> Message:
        node, task = find(message, context)
        (described,) = messages.fields_of(message.content, "context")
        described = messages.read_context(messages.one(described))
        check_terms(described, node, task)
        roster = pinned_roster(node.state_folder, context.node_config)
        device = Device(identity_of(node), roster, described)
        with kept(device, context):
            found = device.advertise()
        return Message(messages.replying({"advertisement": found.to_bytes()}), reply_to=message)

    @app.train("secure_share")
    @faults_as_replies
    def share(message: Message, context: Context) -> Message:
        node, _ = find(message, context)
        (keys,) = messages.fields_of(message.content, "advertisements")
        with resumed(node, message, context) as device:
            sealed = device.share([Advertisement.from_bytes(key) for key in messages.many(keys)])
        return Message(messages.replying({"shares": [one.to_bytes() for one in sealed]}), reply_to=message)

    @app.train("secure_mask")
    @faults_as_replies
    def mask(message: Message, context: Context) -> Message:
        node, task = find(message, context)
        (sealed,) = messages.fields_of(message.content, "shares")
        with resumed(node, message, context) as device:
            check_terms(device.context, node, task)
            vector = contribution(node, task, message, charged=True)
            masked = device.mask([SealedShare.from_bytes(share) for share in messages.many(sealed)], vector)
        return Message(messages.replying({"vector": masked}), reply_to=message)

    @app.train("secure_agree")
    @faults_as_replies
    def agree(message: Message, context: Context) -> Message:
        node, _ = find(message, context)
        (survivors,) = messages.fields_of(message.content, "survivors")
        with resumed(node, message, context) as device:
            signature = device.agree(messages.many(survivors))
        return Message(messages.replying({"signature": signature}), reply_to=message)

    @app.train("secure_answer")
    @faults_as_replies
    def answer(message: Message, context: Context) -> Message:
        node, _ = find(message, context)
        seeds, keys, agreed = messages.fields_of(message.content, "seeds-of", "keys-of", "signatures")
        with resumed(node, message, context) as device:
            signatures = messages.read_pairs(messages.many(agreed))
            found = device.answer(messages.many(seeds), messages.many(keys), signatures)
        of_seeds, of_keys = found.to_bytes()
        return Message(messages.replying({"seeds": of_seeds, "keys": of_keys}), reply_to=message)

    @app.train("secure_unmasked")
    @faults_as_replies
    def unmasked(message: Message, context: Context) -> Message:
        node, task = find(message, context)
        if task.config.privacy.masks != "skipped" or "data-dir" in context.node_config:
            raise MmfedError(
                ExitCode.PRIVACY,
                "the coordinator asks for a vector without masks; only a node of a simulation gives one.",
                "run the coordinator with privacy.masks = 'always'.",
            )
        noise, vector = _noise(node, task), contribution(node, task, message)
        ring = Ring(noise.bits)
        return Message(messages.replying({"vector": ring.pack(ring.encode(vector))}), reply_to=message)


def check_unmasked(task: tasks.Task) -> None:
    """Refuse to train for an update in the clear in a run that promises masks and noise.

    Raises:
        MmfedError: the run's mode is ``user-distributed``.
    """
    if task.config.privacy.mode == "user-distributed":
        raise MmfedError(
            ExitCode.PRIVACY,
            "the coordinator asks for an update in the clear; in mode user-distributed none leaves this device.",
            "run the same mmfed version on the coordinator and on every device.",
        )


def contribution(node: Node, task: tasks.Task, message: Message, *, charged: bool = False) -> IntArray:
    """[width] int64: the sum of the chosen users' encoded updates, each with its share of the noise; before the first
    round of their vectors of the one-shot release.

    Args:
        message: holds the model, where there is a round of training.
        charged: every user charges the own ledger first.

    Raises:
        MmfedError: a user's budget is spent, or its ledger cannot be written; nothing leaves then.
    """
    noise = _noise(node, task)
    total = np.zeros(noise.width, dtype=np.int64)
    early = task.round_number == ROUND
    vectors = single_statistics(node, task) if early else node.single_updates(task, _model(node, message))
    line = LINES[sum_name(task.items)] if early else "model"
    for key, update in vectors:
        source = _source(task, key)
        encoded = noise.encode(update, run_id=task.run_id, round_number=task.round_number, source=source)
        if charged:
            signer = identity_of(node)
            SecureAccount(node.state_folder, key, task, noise, signer, node.lifetime, line).charge(encoded)
        total += encoded
    return total


def identity_of(node: Node) -> Ed25519PrivateKey:
    """The node's long-lived key; sealed where there is a vault."""
    path = node.state_folder / "key.pem"
    return load_or_create_key(path) if node.vault is None else load_or_create_sealed_key(path, node.vault)


def check_terms(described: RoundContext, node: Node, task: tasks.Task) -> None:
    """Refuse a round that is not the task's, or whose noise is not what this device computes for itself.

    Raises:
        MmfedError: names what differs.
    """
    noise = _noise(node, task)
    own = described.point(identity_of(node).public_key().public_bytes_raw()) - 1
    differences = {
        "run": described.run_id != task.run_id,
        "round number": described.round_number != task.round_number,
        "mode": task.config.privacy.mode != "user-distributed",
        "terms of the noise": described.terms != noise.terms(),
        "users on this node": described.users[own] != len(task.users),
        "users in all": sum(described.users) != noise.cohort,
        "least survivors": described.minimum_users != noise.minimum,
        "size of the vector": (described.length, described.bits) != (noise.width, noise.bits),
    }
    for name, differs in differences.items():
        if differs:
            raise MmfedError(
                ExitCode.PRIVACY,
                f"secure aggregation: the round's {name} is not what this device computes from the task.",
                "nothing was sent; run the same mmfed version and scenario on both ends.",
            )


@contextmanager
def resumed(node: Node, message: Message, context: Context) -> Iterator[Device]:
    """The device's side of the round that a message names; kept again afterwards, whatever happens.

    Raises:
        MmfedError: this node is not in that round.
    """
    (digest,) = messages.fields_of(message.content, "round")
    record = context.state.config_records.get(_STATE)
    held = None if record is None else record["device"]
    if not isinstance(held, bytes):
        raise _elsewhere()
    device = Device.from_bytes(held, identity_of(node), pinned_roster(node.state_folder, context.node_config))
    if device.context.digest != digest:
        raise _elsewhere()
    with kept(device, context):
        yield device


@contextmanager
def kept(device: Device, context: Context) -> Iterator[None]:
    """Put the device's side back into the context; after a fault, without its secrets."""
    try:
        yield
    except BaseException:
        device.close()
        raise
    finally:
        context.state[_STATE] = ConfigRecord({"device": device.to_bytes()})


def _elsewhere() -> MmfedError:
    return MmfedError(
        ExitCode.FEDERATION,
        "secure aggregation: this node is not in that round (it was restarted, or the round is over).",
        "nothing to do: it takes part again in the next round.",
    )


def _noise(node: Node, task: tasks.Task) -> DistributedNoise:
    if task.round_number == ROUND:
        check_offer(task, node.model.item_count)
        return sum_noise(
            task.config,
            node.model.item_count,
            population=task.population,
            noise_multiplier=task.noise_multiplier,
            items=task.items,
        )
    return round_noise(task.config, node.shapes, population=task.population, noise_multiplier=task.noise_multiplier)


def _source(task: tasks.Task, key: int) -> RandomWords:
    if task.config.privacy.noise_source == "seeded":
        purpose = f"one-shot-{sum_name(task.items)}" if task.round_number == ROUND else "shares"
        return SeededWords(derive(task.config.run.seed, "device", key), purpose, task.round_number)
    return SecureWords()


def _model(node: Node, message: Message) -> dict[str, Tensor]:
    _, arrays = tasks.read_task(message.content)
    return wire.decode(arrays, node.shapes | wire.public_shapes(node.model))
