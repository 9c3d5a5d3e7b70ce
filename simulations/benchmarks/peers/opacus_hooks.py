"""Record-level DP-SGD with Opacus as its guide has it: ``GradSampleModule`` hooks on layers that it knows.

The tower is the workload's, written with ``nn.Linear`` and ``nn.Embedding``; per-window gradients come from the hooks
(the most compatible and, at batches of this size, the fastest of Opacus' ways), ``DPOptimizer`` clips, sums and
divides. Items are gathered: no table is computed whole. Noise is off, as in ours while they are compared. A user
without a window in a step takes none (with noise the step would be noise alone).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.nn import functional

from mmfed.config import ModelSection
from mmfed.models.base import Recommender
from mmfed.rng import derive, hash_uniform
from mmfed.training.batch import Histories, TrainingBatch, training_batch
from mmfed.training.update import LocalWork


class GatedHead(nn.Module):
    """Σ_m 2σ(z_m G_m + c_m) ⊙ z_m, of items that have all modalities."""

    def __init__(self, widths: list[int], dimensions: int) -> None:
        super().__init__()
        self.projections = [nn.Linear(width, dimensions, bias=False) for width in widths]
        self.gates = [nn.Linear(dimensions, dimensions) for _ in widths]
        self.layers = nn.ModuleList([*self.projections, *self.gates])

    def forward(self, values: list[Tensor]) -> Tensor:
        fused = torch.zeros(())
        for project, gate, value in zip(self.projections, self.gates, values, strict=True):
            projected = project(value)
            fused = fused + 2 * torch.sigmoid(gate(projected)) * projected
        return fused


class RecordTower(nn.Module):
    """Pooled history against sampled items."""

    def __init__(self, widths: list[int], dimensions: int, decays: tuple[float, ...], items: int) -> None:
        super().__init__()
        self.history, self.target = GatedHead(widths, dimensions), GatedHead(widths, dimensions)
        self.mixes = [nn.Linear(dimensions, dimensions, bias=False) for _ in decays]
        self.layers = nn.ModuleList(self.mixes)
        self.bias = nn.Embedding(items, 1)

    def forward(self, history: list[Tensor], weights: list[Tensor], rows: list[Tensor], candidates: Tensor) -> Tensor:
        """Scores [windows, states · candidates].

        Args:
            history: [windows, events, width] by modality.
            weights: [windows, states, events] by decay.
            rows: [windows, states · candidates, width] by modality.
            candidates: [windows, states · candidates]
        """
        events = self.history(history)
        states = torch.zeros(())
        for mix, weight in zip(self.mixes, weights, strict=True):
            states = states + mix(weight @ events)
        items = self.target(rows)
        items = items.view(*states.shape[:2], -1, states.shape[2])
        return (states[:, :, None] * items).sum(-1).flatten(1) + self.bias(candidates)[..., 0]


class OpacusUsers:
    """DP-SGD over each user's windows.

    Args:
        model: a pooled model with gated heads and no ids.
        section: what the model was built from.
        work: the round; ``privacy.mode`` is "record".
    """

    def __init__(self, model: Recommender, section: ModelSection, work: LocalWork) -> None:
        self._model, self._work, self._decays, self._longest = model, work, section.decays, section.history
        self._features = [value * section.content_scale for value in model.features.values]
        widths = [value.shape[1] for value in self._features]
        tower = RecordTower(widths, model.dimensions, section.decays, model.item_count)
        self._pieces = _pieces(tower, model)
        self._before = {name: value.detach() for name, value in model.shared_parameters().items()}
        self._tower = GradSampleModule(tower, loss_reduction="sum")
        self._optimiser = DPOptimizer(
            torch.optim.SGD(tower.parameters(), lr=work.training.learning_rate),
            noise_multiplier=0.0,
            max_grad_norm=work.privacy.clip_norm,
            expected_batch_size=work.privacy.record_batch,
        )

    def train(self, records: Histories, sample_key: int) -> dict[str, Tensor]:
        """The change after a user's steps, by mmfed's names and shapes."""
        with torch.no_grad():
            for piece in self._pieces:
                piece.parameter.copy_(piece.read(self._before))
        for step in range(self._work.training.steps):
            key = derive(sample_key, self._work.round_number, step)
            coins = hash_uniform(key, records.keys, np.zeros(1, dtype=np.int64))[:, 0]
            chosen = np.flatnonzero(coins < self._work.privacy.record_sample_rate)
            if len(chosen):
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="Full backward hook")  # the features need no gradient
                    self._step(records.take(chosen), step)
        return self._change()

    def _step(self, records: Histories, step: int) -> None:
        work = self._work
        batch = training_batch(
            records,
            model=self._model,
            section=work.training,
            seed=work.seed,
            round_number=work.round_number,
            step=step,
            user_vectors=torch.zeros(len(records), 0),
            dtype=torch.float32,
        )
        candidates = torch.cat([batch.targets[:, :, None], batch.negatives], dim=2)
        flat = candidates.flatten(1)
        scores = self._tower(self._gathered(batch.histories.items), self._weights(batch), self._gathered(flat), flat)
        scores = scores.view_as(candidates)
        share = batch.usable.float() / batch.usable.sum(2, keepdim=True).clamp_min(1)
        losses = functional.softplus(-scores[:, :, 0]) + (functional.softplus(scores[:, :, 1:]) * share).sum(2)
        self._optimiser.zero_grad()
        (losses * batch.weights).sum().backward()
        self._optimiser.step()

    def _gathered(self, items: Tensor) -> list[Tensor]:
        return [functional.embedding(items, value) for value in self._features]

    def _weights(self, batch: TrainingBatch) -> list[Tensor]:
        histories = batch.histories
        age = (histories.positions - 1)[:, :, None] - torch.arange(histories.items.shape[1])
        enters = (age >= 0) & (age < self._longest) & (histories.kept[:, None] > 0)
        found = []
        for decay in self._decays:
            weights = torch.exp(age.clamp_min(0) * math.log(decay)) * enters
            found.append(weights / weights.sum(2, keepdim=True).clamp_min(1e-12) ** 0.75)
        return found

    def _change(self) -> dict[str, Tensor]:
        change = {name: torch.zeros_like(value) for name, value in self._before.items()}
        for piece in self._pieces:
            piece.write(piece.parameter.detach() - piece.read(self._before), change)
        return change


@dataclass(frozen=True, eq=False)
class _Piece:
    """A parameter of the tower and what it is of mmfed's: the whole of ``name`` or its ``index``, maybe transposed."""

    parameter: Tensor
    name: str
    index: int | None = None
    transposed: bool = True

    def read(self, values: dict[str, Tensor]) -> Tensor:
        value = values[self.name] if self.index is None else values[self.name][self.index]
        return (value.T if self.transposed else value).reshape(self.parameter.shape)

    def write(self, value: Tensor, into: dict[str, Tensor]) -> None:
        place = into[self.name] if self.index is None else into[self.name][self.index]
        place.copy_((value.T if self.transposed else value).reshape(place.shape))


def _pieces(tower: RecordTower, model: Recommender) -> list[_Piece]:
    found = [_Piece(tower.bias.weight, "item_bias", transposed=False)]
    found += [_Piece(mix.weight, "pooling.mix", index) for index, mix in enumerate(tower.mixes)]
    for side, head in (("history_head", tower.history), ("target_head", tower.target)):
        for index, name in enumerate(model.features.names):
            found += [
                _Piece(head.projections[index].weight, f"{side}.project.{name}"),
                _Piece(head.gates[index].weight, f"{side}.gate", index),
                _Piece(head.gates[index].bias, f"{side}.gate_bias", index, transposed=False),
            ]
    return found
