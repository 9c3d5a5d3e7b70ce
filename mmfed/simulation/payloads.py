"""What leaves one device in one round, as bytes on the wire would show it, for devices one at a time.

The message goes to the production ClientApp, so whatever a privacy mode does on the device (clipping, noise, charge,
refusal) has been done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord
from torch import Tensor

from mmfed.config import Config
from mmfed.federated import sampling, tasks, wire
from mmfed.federated.coordinator import planned_noise
from mmfed.federated.participant import client_app
from mmfed.federated.secure_terms import dimension_of
from mmfed.federated.workspace import Workspace, hold_workspace
from mmfed.models.base import Recommender
from mmfed.records import RunFolder
from mmfed.simulation.inprocess import InProcessGrid
from mmfed.types import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Payloads:
    """Updates of single devices to one model.

    Attributes:
        users: [devices] user indices of those that answered with an update.
        updates: [devices, coordinates] what each sent.
        model: that was sent out.
        shapes: of the coordinates.
    """

    users: IntArray
    updates: FloatArray
    model: Recommender
    shapes: wire.Shapes

    def by_name(self) -> Mapping[str, FloatArray]:
        """[devices, *shape] of every shared parameter."""
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        parts = np.split(self.updates, np.cumsum(sizes)[:-1], axis=1)
        return {
            name: part.reshape(len(part), *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


def device_payloads(
    config: Config, workspace: Workspace, users: IntArray, *, parameters: Mapping[str, Tensor] | None = None
) -> Payloads:
    """Ask each of ``users`` alone for an update.

    Args:
        config: from ``audit_config``, of a run folder of its own.
        parameters: the model sent out; None takes the freshly initialised one.
    """
    run = RunFolder(config.run.folder / config.run.name)
    model = workspace.new_model()
    shapes = wire.shared_shapes(model)
    sent = dict(model.shared_parameters()) if parameters is None else dict(parameters)
    everything = shapes | wire.public_shapes(model)
    arrays = wire.encode(sent | model.public_tensors(), everything)
    population = workspace.shop.interactions.user_count
    rate = sampling.sampling_rate(config.federation.cohort, population)
    sigma = planned_noise(config, population, rate, parameters=dimension_of(shapes), item_count=model.item_count) or 0.0
    hold_workspace(config, workspace)
    grid = InProcessGrid(client_app(), nodes=1, state_folder=run.devices)
    answered, updates = [], []
    for user in users.tolist():
        task = tasks.Task(
            config=config,
            run_id=config.run.name,
            population=population,
            noise_multiplier=sigma,
            catalogue=workspace.features.digest,
            round_number=1,
            users=workspace.user_keys[[user]],
            clip_norm=config.privacy.clip_norm if config.privacy.clipping == "adaptive" else None,
        )
        message = grid.create_message(tasks.task_content(task, arrays), tasks.TRAIN, 1, "1")
        (reply,) = grid.send_and_receive([message])
        vector = None if reply.has_error() else _vector(reply.content.array_records, shapes)
        if vector is not None:
            answered.append(user)
            updates.append(vector)
    size = sum(int(np.prod(shape)) for shape in shapes.values())
    return Payloads(np.array(answered, dtype=np.int64), np.array(updates).reshape(-1, size), model, shapes)


def _vector(records: Mapping[str, ArrayRecord], shapes: wire.Shapes) -> FloatArray | None:
    """The update in a reply; None where the reply holds none in the clear (secure aggregation)."""
    for record in records.values():
        if set(record) == set(shapes):
            return wire.flatten(wire.decode(record, shapes), shapes)
    return None
