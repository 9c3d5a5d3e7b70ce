"""What the coordinator learns from the public catalogue alone: no person's data, no privacy cost."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from mmfed.config import TrainingSection
from mmfed.models.base import HistoryBatch, ItemTables, Recommender
from mmfed.rng import torch_generator

PRETRAINING_RATE = 0.01
BATCH, CANDIDATES = 128, 512
TEMPERATURE = 0.05  # items are told apart by small scores: a start at large ones drowns what people's noisy updates say
HIDDEN_SHARE = 0.5  # of (item, modality) pairs hidden from either side of a contrast


def public_update(model: Recommender, parameters: Mapping[str, Tensor], training: TrainingSection) -> dict[str, Tensor]:
    """One step of the auxiliary tasks, to be added to the mean update of a round (float64).

    The tasks read public labels, so the coordinator takes their gradient itself: exact, once, and outside the clipping
    and the noise of the devices' updates.

    Args:
        model: any weights; not changed.
        parameters: the round's shared parameters.
        training: weight of the tasks, and the step size of the devices' own steps.

    Returns:
        -step · weight · gradient by name; empty for a model without such tasks.
    """
    step = training.auxiliary_weight * training.learning_rate * (training.epochs or training.steps)
    if not step:
        return {}
    local = copy.deepcopy(model)
    shared = local.shared_parameters()
    with torch.no_grad():
        for name, value in shared.items():
            value.copy_(parameters[name])
    losses = local.auxiliary_losses()
    if not losses:
        return {}
    total = torch.stack(list(losses.values())).sum()
    gradients = torch.autograd.grad(total, list(shared.values()), allow_unused=True)
    return {
        name: -step * gradient.double()
        for name, gradient in zip(shared, gradients, strict=True)
        if gradient is not None
    }


def pretrained(model: Recommender, *, steps: int, seed: int) -> dict[str, Tensor]:
    """Shared parameters after training the towers on the catalogue alone.

    An item's history side, seen through some of its modalities, has to find the item's own target side, seen through
    others, among random items (contrastive, Radford et al. 2021, with the modalities drawn at random per item); the
    model's auxiliary tasks are learned along. A user who touched one thing is then already shown things like it.
    Parameters per item (ids, biases) know nothing public and stay, and so do adapters, which begin at the frozen
    features; networks that read raw inputs are trained along.

    Args:
        model: freshly initialised; not changed.
        steps: of Adam; 0 gives the parameters as they are.
        seed: of the batches.
    """
    local = copy.deepcopy(model)
    shared = local.shared_parameters()
    trained = [value for name, value in shared.items() if name not in local.row_parameters()]
    usable = torch.nonzero(local.features.present.sum(1) > 0).flatten()
    if steps and len(usable) > 1:
        with torch.no_grad():
            values = local.item_values()
        adapted = {name: values[name] for name, plan in local.features.plans.items() if plan.training == "adapter"}
        generator = torch_generator(seed, "public pre-training")
        optimiser = torch.optim.Adam(trained, lr=PRETRAINING_RATE)
        for _ in range(steps):
            values = local.item_values(adapted)
            loss = _contrast(local, values, usable, generator)
            for auxiliary in local.auxiliary_losses(values).values():
                loss = loss + auxiliary
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
    return {name: value.detach().clone() for name, value in shared.items()}


def _contrast(model: Recommender, values: Mapping[str, Tensor], usable: Tensor, generator: torch.Generator) -> Tensor:
    """Cross-entropy of finding each item of a batch again among random others, nats."""
    count, dtype = len(usable), model.features.present.dtype
    batch = usable[torch.randperm(count, generator=generator)[:BATCH]]
    others = usable[torch.randint(count, (min(CANDIDATES, count),), generator=generator)]
    history = model.item_tables(_view(model, generator), values).history
    tables = model.item_tables(_view(model, generator), values)
    ones = torch.ones(len(batch), 1, dtype=dtype)
    single = HistoryBatch(
        items=batch[:, None],
        known=ones,
        kept=ones,
        positions=torch.ones(len(batch), 1, dtype=torch.int64),
        others=torch.zeros(len(batch), 1, dtype=dtype),
        user_vectors=torch.zeros(len(batch), model.private_dimensions, dtype=dtype),
        ratings=ones,
    )
    states = model.user_states(history[batch][:, None], single)
    own = model.score_candidates(states, tables, batch[:, None, None])[:, 0]
    among = ItemTables(tables.history, tables.target[others], tables.bias[others])
    again = others[None, :] == batch[:, None]
    scores = torch.cat([own, model.score(states, among)[:, 0].masked_fill(again, float("-inf"))], dim=1)
    return torch.nn.functional.cross_entropy(scores / TEMPERATURE, torch.zeros(len(batch), dtype=torch.int64))


def _view(model: Recommender, generator: torch.Generator) -> Tensor:
    """[items, modality_columns] a random part of every item's content; ids are hidden."""
    shape = (model.item_count, len(model.features.names))
    kept = torch.rand(shape, generator=generator) >= HIDDEN_SHARE
    # Whoever would lose everything keeps everything.
    present = model.features.present > 0
    kept = kept | ~(kept & present).any(1, keepdim=True)
    mask = torch.zeros(model.item_count, model.modality_columns, dtype=model.features.present.dtype)
    mask[:, : shape[1]] = kept
    return mask


def pretraining_steps(asked: int | None, *, private: bool, content: bool) -> int:
    """Steps of public pre-training: what was asked for, or 300 where noise makes a good start precious."""
    if not content:
        return 0
    return (300 if private else 0) if asked is None else asked
