"""From a workload to what the peers are given."""

from __future__ import annotations

import numpy as np

from mmfed.config import Config
from mmfed.models.base import Recommender
from mmfed.training.batch import Histories
from mmfed.types import IntArray
from simulations.benchmarks.peers.problem import Problem, Settings
from simulations.benchmarks.workloads import Workload


def representative(lengths: IntArray, count: int) -> IntArray:
    """[count] users whose histories are as long as everybody's: the middle one of each of ``count`` classes by length.

    A few users drawn at random can have much longer histories than the cohort; speeds would not be comparable.
    """
    order = np.argsort(lengths, kind="stable")
    middles = ((np.arange(count) + 0.5) * len(order) / count).astype(np.int64)
    return np.sort(order[middles])


def problem_of(
    workload: Workload, config: Config, model: Recommender, histories: Histories, vectors: np.ndarray
) -> Problem:
    """The round of some users.

    Args:
        histories, vectors: of the users.
    """
    training, section = config.training, config.model
    features = [value.numpy() * np.float32(section.content_scale) for value in model.features.values]
    work = workload.work(config)
    return Problem(
        settings=Settings(
            pooled=section.history > 0,
            tower="ids" if section.item_ids else "gated",
            items=workload.items,
            seed=work.seed,
            round_number=work.round_number,
            positions=training.positions,
            negatives=training.negatives,
            learning_rate=training.learning_rate,
            private_learning_rate=training.private_learning_rate,
            clip_norm=config.privacy.clip_norm,
            history_dropout=training.history_dropout,
            decays=section.decays,
            history=section.history,
        ),
        parameters={name: value.detach().numpy() for name, value in model.shared_parameters().items()},
        features=np.concatenate(features, axis=1) if features else np.zeros((workload.items, 0), dtype=np.float32),
        widths=tuple(value.shape[1] for value in features),
        keys=histories.keys,
        indptr=histories.indptr,
        items=histories.items,
        vectors=vectors,
    )
