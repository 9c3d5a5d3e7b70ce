"""The one-shot round: every device's item co-occurrence, summed once before training."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.serverapp import Grid

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import faults, tasks, wire
from mmfed.federated.checkpoint import load_checkpoint, save_checkpoint
from mmfed.models.band_ease import BandEase
from mmfed.models.base import Recommender
from mmfed.models.gcn import GraphConvolution
from mmfed.privacy.keys import load_or_create_key
from mmfed.records import RunFolder
from mmfed.training.cooccurrence import packed_size, unpacked
from mmfed.types import FloatArray, IntArray

FILE = "one-shot.safetensors"
MOST_ITEMS = 20_000  # the message holds items² / 2 numbers of 8 bytes: 1.6 GB
_log = logging.getLogger(__name__)


def one_shot_shapes(item_count: int) -> wire.Shapes:
    """What a one-shot reply may hold."""
    return {"cooccurrence": (packed_size(item_count),)}


def check_one_shot(config: Config, item_count: int) -> None:
    """Refuse what cannot be done.

    Raises:
        MmfedError: privacy is asked for (the release has no noise yet), or the catalogue is too large.
    """
    if config.privacy.mode != "none":
        raise MmfedError(
            ExitCode.PRIVACY,
            f"one_shot.enabled = true with privacy.mode = {config.privacy.mode!r}: the one-shot sum has no noise yet.",
            "set one_shot.enabled = false, or privacy.mode = 'none'.",
        )
    if item_count > MOST_ITEMS:
        raise MmfedError(
            ExitCode.CONFIG,
            f"one_shot.enabled = true: {item_count} items need a message of {packed_size(item_count) * 8 >> 20} MiB.",
            f"set one_shot.enabled = false; it serves catalogues of at most {MOST_ITEMS} items.",
        )


def collect_one_shot(
    grid: Grid,
    config: Config,
    run: RunFolder,
    key: Ed25519PrivateKey,
    *,
    run_id: str,
    nodes: Mapping[int, IntArray],
    catalogue: str,
    item_count: int,
) -> FloatArray:
    """[items, items] the sum over all users; asked for once, kept in the run folder.

    Every user adds norm 1; a node whose sum is larger than its users can make is left out.

    Raises:
        MmfedError: see ``check_one_shot``; or no node answers.
    """
    check_one_shot(config, item_count)
    path = run.checkpoints / FILE
    if path.exists():
        return load_one_shot(run)
    shapes = one_shot_shapes(item_count)
    messages = []
    for node, users in nodes.items():
        task = tasks.Task(
            config=config,
            run_id=run_id,
            population=sum(len(one) for one in nodes.values()),
            noise_multiplier=0.0,
            catalogue=catalogue,
            round_number=0,
            users=users,
        )
        messages.append(grid.create_message(tasks.task_content(task), tasks.ONE_SHOT, node, "0"))
    order = {node: min(users.tolist(), default=-1) for node, users in nodes.items()}
    replies = sorted(
        grid.send_and_receive(messages, timeout=config.federation.round_timeout),
        key=lambda reply: order.get(reply.metadata.src_node_id, -1),
    )
    total, users_in, refused = np.zeros(packed_size(item_count)), 0, []
    waiting = set(nodes)
    for reply in replies:
        node = reply.metadata.src_node_id
        try:
            if node not in waiting:
                raise MmfedError(ExitCode.FEDERATION, "nobody asked it, or it answered before", "look at the node.")
            waiting.remove(node)
            if reply.has_error():
                raise MmfedError(ExitCode.FEDERATION, faults.reason(reply.error), "look at the node's log.")
            arrays, realised = tasks.read_training_reply(reply.content)
            vector = wire.flatten(wire.decode(arrays, shapes), shapes)
            if realised > len(nodes[node]) or np.linalg.norm(vector) > realised * (1 + 1e-6):
                raise MmfedError(ExitCode.FEDERATION, "a sum larger than its users can make", "update the node.")
        except MmfedError as fault:
            refused.append(f"node {node}: {fault.message}")
            continue
        total += vector
        users_in += realised
    if not users_in:
        raise MmfedError(
            ExitCode.FEDERATION,
            f"the one-shot round: no node gave its sum ({faults.condensed(refused) or 'no reply'}).",
            "look at the nodes and start again; raise federation.round_timeout if they were only slow.",
        )
    if refused:
        _log.warning("the one-shot round goes on without %s", faults.condensed(refused))
    save_checkpoint(path, {"cooccurrence": torch.from_numpy(total)}, {"users": users_in, "items": item_count}, key)
    return unpacked(total, item_count)


def load_one_shot(run: RunFolder) -> FloatArray:
    """[items, items] the sum that a run has kept.

    Raises:
        MmfedError: there is none, or it is damaged.
    """
    path = run.checkpoints / FILE
    if not path.exists():
        raise MmfedError(ExitCode.STORAGE, f"{path}: no such file.", "start the run with one_shot.enabled = true.")
    tensors, state = load_checkpoint(path, load_or_create_key(run.path / "key.pem"))
    return unpacked(tensors["cooccurrence"].numpy(), int(state["items"]))


def band_ease(cooccurrence: FloatArray, config: Config) -> BandEase:
    """Band-EASE with the configuration's settings."""
    section = config.one_shot
    return BandEase(cooccurrence, ridge=section.ridge, history_decay=section.history_decay)


def use_one_shot(model: Recommender, teacher: BandEase, config: Config) -> None:
    """Give a model what it takes of the one-shot sum: ``gcn`` its learned graph; others nothing."""
    if isinstance(model, GraphConvolution) and model.learned:
        model.use_learned_graph(teacher.graph(config.model.neighbours))
