"""pfl-research 0.6 (Granqvist et al. 2024) on the same tower, in its own environment.

Its own parts do the work: ``PyTorchModel``, ``FederatedAveraging``, ``SimulatedBackend`` in one process (as it runs on
one machine without a launcher), a user's data as ``PyTorchTensorDataset`` (its fast in-memory one), users clipped by
``NormClippingOnly`` (its Gaussian mechanism without the noise). No evaluation of users and no metrics: they are off
in its benchmarks' speed figures too. Rows are gathered, so no table is computed whole; copying and comparing all
parameters per user is the library's way.

The private vector is a parameter of the local optimiser that is not in the model's variable map, so it is trained but
neither sent nor reset; each user's own is put in before the training.

This file needs PyTorch and pfl, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend  # pyright: ignore[reportMissingImports]
from pfl.algorithm.base import NNAlgorithmParams  # pyright: ignore[reportMissingImports]
from pfl.algorithm.federated_averaging import FederatedAveraging  # pyright: ignore[reportMissingImports]
from pfl.common_types import Population  # pyright: ignore[reportMissingImports]
from pfl.context import CentralContext  # pyright: ignore[reportMissingImports]
from pfl.data.federated_dataset import FederatedDataset  # pyright: ignore[reportMissingImports]
from pfl.data.pytorch import PyTorchTensorDataset  # pyright: ignore[reportMissingImports]
from pfl.data.sampling import MinimizeReuseUserSampler  # pyright: ignore[reportMissingImports]
from pfl.hyperparam.base import NNTrainHyperParams  # pyright: ignore[reportMissingImports]
from pfl.model.pytorch import PyTorchModel  # pyright: ignore[reportMissingImports]
from pfl.privacy.privacy_mechanism import (  # pyright: ignore[reportMissingImports]
    CentrallyAppliedPrivacyMechanism,
    NormClippingOnly,
)
from torch import Tensor, nn

from simulations.benchmarks.peers.draws import pooled_step, sampled_steps
from simulations.benchmarks.peers.problem import Array, Problem
from simulations.benchmarks.peers.towers import gated, pooled_states, sampled_loss, softmax_loss


class Tower(nn.Module):
    """The shared parameters, and the losses of a batch as pfl calls them."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem
        self.features = torch.from_numpy(problem.features)
        self.shared = nn.ParameterDict(
            {name.replace(".", "/"): torch.from_numpy(value.copy()) for name, value in problem.parameters.items()}
        )
        self.vector: nn.Parameter | None = None

    def loss(self, *batch: Tensor) -> Tensor:
        return self._pooled(*batch) if self.problem.settings.pooled else self._sampled(*batch)

    def metrics(self, *batch: Tensor) -> dict[str, Any]:
        del batch
        return {}

    def _sampled(self, candidates: Tensor, share: Tensor) -> Tensor:
        if self.vector is None:
            raise ValueError("no private vector")
        flat = candidates.flatten()
        if self.problem.settings.tower == "gated":
            named = {name.replace("/", "."): value for name, value in self.shared.items()}
            projections = [name for name in named if name.startswith("target_head.project.")]
            values = self.features.index_select(0, flat).split(self.problem.widths, dim=1)
            rows = gated(named, projections, values)
        else:
            rows = self.shared["target_ids"].index_select(0, flat)
        bias = self.shared["item_bias"].index_select(0, flat).view(candidates.shape)
        return sampled_loss(self.vector, rows, bias, share)

    def _pooled(self, items: Tensor, positions: Tensor, kept: Tensor, first: Tensor) -> Tensor:
        settings, shared = self.problem.settings, self.shared
        history = shared["history_ids"].index_select(0, items)
        states = pooled_states(history, shared["pooling/mix"], positions, kept, settings.decays, settings.history)
        return softmax_loss(states, shared["target_ids"], shared["item_bias"], items[positions], positions, first)


class Averaging(FederatedAveraging):
    """Federated averaging that puts in each user's private vector."""

    def train_one_user(self, initial_model_state: Any, model: Any, user_dataset: Any, central_context: Any) -> Any:
        tower = model.pytorch_model
        if tower.vector is not None:
            tower.vector.data.copy_(user_dataset.metadata["vector"])
        return super().train_one_user(initial_model_state, model, user_dataset, central_context)


def trainer(problem: Problem) -> Callable[[], dict[str, Array]]:
    """A function that trains all users once and gives the sum of their clipped changes."""
    settings, tower = problem.settings, Tower(problem)
    # Parameters without a gradient (substitutes of missing features: nothing is missing) are left out of the model.
    used = _used(problem)
    for name, value in tower.shared.items():
        value.requires_grad_(name.replace("/", ".") in used)

    def optimiser(parameters: Any, lr: float) -> torch.optim.Optimizer:
        del parameters
        groups = [{"params": [value for value in tower.shared.values() if value.requires_grad]}]
        if tower.vector is not None:
            groups.append({"params": [tower.vector], "lr": settings.private_learning_rate})  # type: ignore[dict-item]
        return torch.optim.SGD(groups, lr=lr)

    model = PyTorchModel(tower, optimiser, torch.optim.SGD(tower.parameters(), lr=1.0))
    if not settings.pooled:
        tower.vector = nn.Parameter(torch.from_numpy(problem.vectors[0]).clone())  # after the variable map was made
    vectors = torch.from_numpy(problem.vectors)

    def dataset(user: int) -> PyTorchTensorDataset:
        if settings.pooled:
            step = pooled_step(problem, user)
            data = (problem.history(user), step.positions, step.kept, step.first)
        else:
            steps = sampled_steps(problem, user)
            data = tuple(np.concatenate(part) for part in zip(*steps, strict=True))
        tensors = tuple(torch.from_numpy(np.ascontiguousarray(one)) for one in data)
        return PyTorchTensorDataset(tensors, user_id=str(user), metadata={"vector": vectors[user]})

    users = FederatedDataset(dataset, MinimizeReuseUserSampler(list(range(problem.users))))
    clipping = CentrallyAppliedPrivacyMechanism(NormClippingOnly(2.0, settings.clip_norm))
    backend = SimulatedBackend(users, users, [clipping])
    context = CentralContext(
        current_central_iteration=0,
        do_evaluation=False,
        cohort_size=problem.users,
        population=Population.TRAIN,
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=1, evaluation_frequency=1, train_cohort_size=problem.users, val_cohort_size=None
        ),
        model_train_params=NNTrainHyperParams(
            local_batch_size=None if settings.pooled else settings.positions,
            local_num_epochs=1,
            local_learning_rate=settings.learning_rate,
        ),
        seed=0,
    )
    algorithm = Averaging()

    def train() -> dict[str, Array]:
        statistics, _ = backend.gather_results(model, algorithm, central_context=context)
        return {
            name.removeprefix("shared.").replace("/", "."): value.detach().numpy() for name, value in statistics.items()
        }

    return train


def _used(problem: Problem) -> set[str]:
    if problem.settings.pooled:
        return {"history_ids", "target_ids", "item_bias", "pooling.mix"}
    if problem.settings.tower == "ids":
        return {"target_ids", "item_bias"}
    return {name for name in problem.parameters if "missing" not in name}
