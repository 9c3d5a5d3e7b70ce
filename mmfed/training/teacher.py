"""Band-EASE as the teacher of a model: post-processing of the one-shot sum, no further privacy cost."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from mmfed.models.band_ease import BandEase, standardised
from mmfed.models.base import HistoryBatch, Recommender
from mmfed.rng import numpy_generator

TEACHING_RATE = 0.01
BATCH, LONGEST = 64, 10
SHARPNESS = 2.0  # the teacher's standardised scores are multiplied by this before the softmax


def taught(
    model: Recommender, parameters: Mapping[str, Tensor], teacher: BandEase, *, steps: int, seed: int
) -> dict[str, Tensor]:
    """Shared parameters after learning the teacher's rankings of made-up histories.

    A made-up history walks over the teacher's weights, each next item drawn among those the teacher ranks high, so
    that nobody's history is used. The model learns the teacher's softmax over all items (distillation, Hinton et al.
    2015); items without any co-occurrence start no walk and are taught to rank low.

    Args:
        model: not changed.
        parameters: where to start.
        steps: of Adam.
        seed: of the walks.
    """
    local = copy.deepcopy(model)
    shared = local.shared_parameters()
    with torch.no_grad():
        for name, value in shared.items():
            value.copy_(parameters[name])
    generator = numpy_generator(seed, "teacher")
    optimiser = torch.optim.Adam(shared.values(), lr=TEACHING_RATE)
    starts = teacher.starts()
    for _ in range(steps if np.count_nonzero(starts) > 1 else 0):
        walks = _walks(teacher, starts, generator)
        loss = _distance(local, teacher, walks)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(shared.values()), 1.0)
        optimiser.step()
    return {name: value.detach().clone() for name, value in shared.items()}


def _walks(teacher: BandEase, starts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """[BATCH, length] item index; the length is drawn once for the batch."""
    longest = min(LONGEST, len(teacher.weights) - 1)  # something must be left to rank
    length = int(generator.integers(1, longest + 1))
    walks = np.zeros((BATCH, length), dtype=np.int64)
    walks[:, 0] = generator.choice(len(starts), BATCH, p=starts)
    for place in range(1, length):
        scores = standardised(teacher.of_recent(_recent(walks[:, place - 1 : place], teacher))) * SHARPNESS
        np.put_along_axis(scores, walks[:, :place], -np.inf, axis=1)
        # Gumbel maximum: one draw from the softmax of every row.
        walks[:, place] = np.argmax(scores + generator.gumbel(size=scores.shape), axis=1)
    return walks


def _recent(walks: np.ndarray, teacher: BandEase) -> sparse.csr_array:
    """[rows, items] recency weights of walks [rows, length]; a walk never visits an item twice."""
    count, length = walks.shape
    weights = np.tile(teacher.history_decay ** np.arange(length - 1, -1, -1.0), count)
    rows = np.repeat(np.arange(count), length)
    return sparse.csr_array((weights, (rows, walks.ravel())), shape=(count, len(teacher.weights)))


def _distance(model: Recommender, teacher: BandEase, walks: np.ndarray) -> Tensor:
    """Cross-entropy between the teacher's and the model's softmax after each walk, nats; walked items left out."""
    count, length = walks.shape
    taught = standardised(teacher.of_recent(_recent(walks, teacher))) * SHARPNESS
    np.put_along_axis(taught, walks, -np.inf, axis=1)
    tables = model.item_tables()
    dtype = tables.bias.dtype
    items, ones = torch.from_numpy(walks), torch.ones(count, length, dtype=dtype)
    batch = HistoryBatch(
        items=items,
        known=ones,
        kept=ones,
        positions=torch.full((count, 1), length, dtype=torch.int64),
        others=torch.zeros(count, 1, dtype=dtype),
        user_vectors=torch.zeros(count, model.private_dimensions, dtype=dtype),
        ratings=ones,
    )
    vectors = torch.nn.functional.embedding(items, tables.history)
    scores = model.score(model.user_states(vectors, batch), tables)[:, 0]
    shares = torch.softmax(torch.from_numpy(taught).to(dtype), dim=1)
    logged = torch.log_softmax(scores.scatter(1, items, float("-inf")), dim=1)
    return -(shares * logged.masked_fill(shares == 0, 0.0)).sum(1).mean()
