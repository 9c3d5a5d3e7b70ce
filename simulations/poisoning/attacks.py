"""What hostile devices do: histories that never were, and updates that no training gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmfed.models.base import HistoryBatch, Recommender
from mmfed.training.cooccurrence import packed
from mmfed.types import FloatArray, IntArray

Kind = Literal["fake-popular", "fake-random", "promotion", "row", "pairs", "basket"]
FILLERS = 20  # other items in a fake history
POPULAR = 100  # how far down the list of best sellers fillers of the popular kind go
READERS, READ = 64, 5  # made-up shoppers for whom a forger raises the score, and events of each
TOGETHER = 0.05  # unbounded forgers weigh as much, together, as this share of honest users
KINDS: dict[Kind, str] = {
    "fake-popular": "fake shoppers, popular fillers",
    "fake-random": "fake shoppers, random fillers",
    "promotion": "forged update, whole model",
    "row": "forged update, the item's rows alone",
    "pairs": "forged one-shot sum, pairs alone (refused)",
    "basket": "forged one-shot sum, one basket",
}


@dataclass(frozen=True)
class Attack:
    """An item to push, how, and by how many devices.

    Attributes:
        share: hostile devices per honest user.
        first_round: in which they begin.
    """

    kind: Kind
    share: float
    first_round: int = 1

    def devices(self, honest: int) -> int:
        """Hostile devices among so many honest users, at least one."""
        return max(1, round(self.share * honest))


def fillers(kind: Kind, popularity: IntArray, generator: np.random.Generator, count: int = FILLERS) -> IntArray:
    """[count] different items to stand beside the target.

    Args:
        popularity: [items] users; a shop shows its best sellers, so an attacker may know them.
    """
    if kind == "fake-random":
        return generator.permutation(len(popularity))[:count]
    best = np.argsort(-popularity, kind="stable")[:POPULAR]
    return generator.permutation(best)[:count]


def fake_history(target: int, beside: IntArray) -> IntArray:
    """The target after every filler: whoever has seen one of these goes on to the target."""
    return np.stack([beside, np.full(len(beside), target)], axis=1).ravel()


def forged_popularity(target: int, item_count: int) -> FloatArray:
    """[items] a person's whole weight on the target."""
    counts = np.zeros(item_count)
    counts[target] = 1.0
    return counts


def forged_cooccurrence(kind: Kind, target: int, beside: IntArray, covered: IntArray) -> FloatArray:
    """A person's whole weight on the target beside other items, packed as ``cooccurrence.packed``.

    Args:
        kind: "pairs", with nothing on the diagonal, which no history gives; "basket", with the diagonal that the most
            weight on these pairs needs: half of the weight is then on the target alone and on the others alone.
        covered: items that are asked for; nothing can be said of a target that is not among them.
    """
    place = np.full(int(max(covered.max(initial=0), target, beside.max(initial=0))) + 1, -1)
    place[covered] = np.arange(len(covered))
    others = place[beside[beside != target]]
    matrix = np.zeros((len(covered), len(covered)))
    if place[target] >= 0:
        others = others[others >= 0]
        if kind == "basket":
            weights = np.zeros(len(covered))
            weights[others], weights[place[target]] = 1.0 / np.sqrt(max(len(others), 1)), 1.0
            matrix = np.outer(weights, weights)
        else:
            matrix[place[target], others] = matrix[others, place[target]] = 1.0
    length = np.linalg.norm(matrix)
    return packed(matrix / length if length else matrix)


def promotion(model: Recommender, target: int, readers: IntArray) -> dict[str, Tensor]:
    """The direction in shared parameters that makes the target everybody's next item fastest.

    Args:
        model: holds the round's parameters.
        readers: [readers, events] histories of made-up shoppers.

    Returns:
        The negative gradient of their mean cross-entropy, as float64 by name.
    """
    count, events = readers.shape
    ones = torch.ones(count, events)
    batch = HistoryBatch(
        items=torch.from_numpy(readers),
        known=ones,
        kept=ones,
        positions=torch.full((count, 1), events),
        others=torch.zeros(count, 1),
        user_vectors=torch.zeros(count, model.private_dimensions),
        ratings=torch.full((count, events), 0.5),
    )
    shared = model.shared_parameters()
    with torch.enable_grad():
        tables = model.item_tables()
        scores = model.score(model.user_states(tables.history[batch.items], batch), tables)[:, 0]
        loss = functional.cross_entropy(scores, torch.full((count,), target))
        found = torch.autograd.grad(loss, list(shared.values()), allow_unused=True)
    return {
        name: torch.zeros_like(value, dtype=torch.float64) if gradient is None else -gradient.double()
        for (name, value), gradient in zip(shared.items(), found, strict=True)
    }


def rows_alone(direction: Mapping[str, Tensor], target: int, row_parameters: tuple[str, ...]) -> dict[str, Tensor]:
    """The same, with nothing but the target's own rows left."""
    left = {name: torch.zeros_like(value) for name, value in direction.items()}
    for name in row_parameters:
        left[name][target] = direction[name][target]
    return left


def of_norm(direction: Mapping[str, Tensor], norm: float) -> dict[str, Tensor]:
    """The direction at a length (a zero direction stays zero)."""
    length = float(torch.stack([value.square().sum() for value in direction.values()]).sum().sqrt())
    return {name: value * (norm / length if length else 0.0) for name, value in direction.items()}


Forge = Callable[[Recommender, float], dict[str, Tensor]]


def forger(kind: Kind, target: int, readers: IntArray) -> Forge:
    """The function from the round's model and the length to reach for to the forged update."""

    def forged(model: Recommender, norm: float) -> dict[str, Tensor]:
        direction = promotion(model, target, readers)
        if kind == "row":
            direction = rows_alone(direction, target, model.row_parameters())
        return of_norm(direction, norm)

    return forged
