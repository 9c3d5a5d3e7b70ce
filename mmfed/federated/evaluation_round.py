"""The private evaluation round: every device tests the model on its own held-out interactions, one sum is released."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from flwr.serverapp import Grid
from torch import Tensor

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.protocol import tie_keys
from mmfed.evaluation.ranking import evaluate_ranking
from mmfed.federated import tasks, wire
from mmfed.federated.private_metrics import MetricLayout, PrivateMetrics, release_metrics
from mmfed.federated.sum_of_nodes import sum_of_nodes
from mmfed.federated.workspace import Workspace
from mmfed.models.base import Recommender
from mmfed.models.scoring import ModelScorer
from mmfed.privacy.ledger import Ledger
from mmfed.privacy.mechanisms import GaussianMechanism
from mmfed.types import FloatArray, IntArray

_TRUSTED = ("none", "user-central", "user-ftrl")  # modes in which the server may see the sum before noise


def check_evaluation(config: Config) -> None:
    """Refuse where the server is not trusted with the exact sum.

    Raises:
        MmfedError: names the mode.
    """
    if config.privacy.mode not in _TRUSTED:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"privacy.mode = {config.privacy.mode!r}: the server is not trusted with the exact sum of figures.",
            "evaluate on public data, or on the devices alone.",
        )


def metric_shapes(layout: MetricLayout) -> wire.Shapes:
    """What a reply may hold."""
    return {"metrics": (layout.size,)}


def layout_of(config: Config, item_count: int) -> MetricLayout:
    """The layout at the shortest list length that is evaluated."""
    return MetricLayout(item_count, min(config.evaluation.k))


def users_metrics(
    model: Recommender, workspace: Workspace, users: IntArray, vectors: FloatArray | None
) -> dict[str, Tensor]:
    """The sum over some users of their own test figures and lists; what a node answers.

    Args:
        users: indices.
        vectors: [all users, p] private vectors; None for models without.
    """
    config, split = workspace.config, workspace.split
    layout = layout_of(config, model.item_count)
    tested = np.intersect1d(users, np.flatnonzero(split.test.lengths))
    if not len(tested):
        return {"metrics": torch.zeros(layout.size, dtype=torch.float64)}
    history = split.before_test_of(tested)
    scorer = ModelScorer(
        model,
        workspace.timelines(history, split.test),
        user_vectors=vectors,
        people=workspace.people,
        rating_range=config.training.rating_range,
    )
    result = evaluate_ranking(
        scorer,
        history=history,
        targets=split.test,
        item_count=model.item_count,
        train_counts=np.ones(model.item_count, dtype=np.int64),  # popularity is no device's to know
        ks=(layout.k,),
        seed=config.run.seed,
        bootstrap=0,
        tie_key=tie_keys(workspace.shop.catalogue.item_ids, config.run.seed),
        users=tested,
    )
    figures = np.stack([result.per_user[name] for name in layout.names], axis=1)
    lists = result.lists if result.lists is not None else np.full((len(tested), layout.k), -1)
    return {"metrics": torch.from_numpy(layout.total(figures, lists))}


def evaluate_privately(
    grid: Grid,
    config: Config,
    *,
    run_id: str,
    nodes: Mapping[int, IntArray],
    catalogue: str,
    item_count: int,
    arrays: Mapping[str, Tensor],
    shapes: wire.Shapes,
    mechanism: GaussianMechanism,
    ledger: Ledger,
    round_number: int,
) -> PrivateMetrics:
    """Ask every enrolled user's device, sum, add noise, charge, read.

    Args:
        arrays, shapes: the model and what goes with it, as a training round sends them.
        mechanism: of clip norm 1.

    Raises:
        MmfedError: rating prediction (it has no lists), no answer, an exhausted budget, an undurable charge.
    """
    check_evaluation(config)
    if config.training.objective == "mse":
        raise MmfedError(
            ExitCode.CONFIG, "private metrics are those of lists; this run predicts ratings.", "evaluate it without."
        )
    layout = layout_of(config, item_count)
    population = sum(len(one) for one in nodes.values())
    asked = {
        node: tasks.Task(
            config=config,
            run_id=run_id,
            population=population,
            noise_multiplier=mechanism.noise_multiplier,
            catalogue=catalogue,
            round_number=round_number,
            users=users,
        )
        for node, users in nodes.items()
    }
    total, answered = sum_of_nodes(
        grid,
        tasks.EVALUATE,
        asked,
        metric_shapes(layout),
        timeout=config.federation.round_timeout,
        purpose="evaluation round",
        arrays=wire.encode(dict(arrays), shapes),
    )
    return release_metrics(
        total, layout, mechanism, ledger, population=population, users=answered, round_number=round_number
    )
