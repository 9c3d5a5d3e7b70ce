"""The same model trained where all data lie in one place: the upper bound that federation is measured against."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from mmfed.config import Config
from mmfed.federated.progress import Observer, Progress
from mmfed.federated.strategy import RoundRecord, RoundState
from mmfed.federated.workspace import Workspace
from mmfed.models.base import Recommender
from mmfed.privacy.keys import load_or_create_key
from mmfed.records import RunFolder
from mmfed.rng import numpy_generator
from mmfed.training.batch import Histories, modality_mask, training_batch
from mmfed.training.objective import user_losses


def run_centralised(config: Config, workspace: Workspace, run: RunFolder, observer: Observer, *, resume: bool) -> None:
    """Mini-batches of users, Adam, every epoch kept and validated like a round.

    Objective, positions, dropout and negatives are the federated run's.
    """
    progress = Progress.load(run, config, load_or_create_key(run.path / "key.pem"), resume=resume)
    model = workspace.new_model()
    shared = model.shared_parameters()
    section = config.centralised
    optimiser = torch.optim.Adam(shared.values(), lr=section.learning_rate, weight_decay=section.weight_decay)
    _restore(progress, shared, optimiser)
    histories = workspace.histories
    observer.enrolled(len(histories), 1.0, None)
    for epoch in range(progress.round + 1, 0 if progress.stopped else section.epochs + 1):
        started = time.perf_counter()
        order = numpy_generator(config.run.seed, "centralised", epoch).permutation(len(histories))
        for step, start in enumerate(range(0, len(order), section.batch)):
            loss = _loss(model, histories.take(order[start : start + section.batch]), config, epoch, step)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        record = RoundRecord(
            round=epoch,
            planned=len(histories),
            asked=len(histories),
            realised=len(histories),
            refused_nodes=0,
            seconds=time.perf_counter() - started,
            epsilon=None,
            validation=None,
        )
        parameters = {name: value.detach().clone() for name, value in shared.items()}
        if progress.keep(RoundState(record, parameters, _state(shared, optimiser)), observer):
            break


def _loss(model: Recommender, histories: Histories, config: Config, epoch: int, step: int) -> Tensor:
    """Mean loss of a batch of users, and the public tasks."""
    training, seed = config.training, config.run.seed
    dtype = next(model.parameters()).dtype
    batch = training_batch(
        histories,
        model=model,
        section=training,
        seed=seed,
        round_number=epoch,
        step=step,
        user_vectors=torch.zeros(len(histories), model.private_dimensions),
        dtype=dtype,
    )
    tables = model.item_tables(modality_mask(model, training, seed=seed, round_number=epoch, step=step))
    vectors = torch.nn.functional.embedding(batch.histories.items, tables.history)
    loss = user_losses(model, training, tables, vectors, batch).sum() / len(histories)
    if training.auxiliary_weight:
        for auxiliary in model.auxiliary_losses().values():
            loss = loss + training.auxiliary_weight * auxiliary
    return loss


def _state(shared: Mapping[str, Tensor], optimiser: torch.optim.Adam) -> dict[str, Tensor]:
    """Adam's moments by parameter name."""
    return {
        f"{key}.{name}": value.detach().clone()
        for name, parameter in shared.items()
        for key, value in optimiser.state[parameter].items()
    }


def _restore(progress: Progress, shared: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Adam) -> None:
    """Put a checkpoint's parameters and moments back."""
    if not progress.tensors:
        return
    with torch.no_grad():
        for name, parameter in shared.items():
            parameter.copy_(progress.tensors[f"model.{name}"])
            optimiser.state[parameter] = {
                key: progress.tensors[f"optimiser.{key}.{name}"].clone()
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"optimiser.{key}.{name}" in progress.tensors
            }
