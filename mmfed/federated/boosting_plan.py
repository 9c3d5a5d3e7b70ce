"""What the nodes of a federated boosting run agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmfed.errors import ExitCode, MmfedError
from mmfed.training.behaviour import boosting_parameters

DEEPEST = 10  # levels a node agrees to grow


@dataclass(frozen=True, kw_only=True)
class BoostingPlan:
    """What all nodes agree on.

    Attributes:
        classes, columns: of the table after one-hot encoding.
        nodes: that take part in every round; each round adds as many trees, so each tree weighs 1 / nodes.
        learning_rate: of a whole round.
        balanced: whether each node weighs its classes to equal totals.
    """

    classes: int
    columns: int
    nodes: int
    rounds: int = 20
    depth: int = 4
    learning_rate: float = 0.3
    balanced: bool = True
    seed: int = 0
    timeout: float = 600.0

    def __post_init__(self) -> None:
        for name in ("columns", "nodes", "rounds", "depth"):
            if getattr(self, name) < 1:
                raise MmfedError(
                    ExitCode.CONFIG, f"federated boosting: {name} = {getattr(self, name)}.", "use 1 or more."
                )
        if self.classes < 2 or self.depth > DEEPEST or not 0 < self.learning_rate <= 1:
            raise MmfedError(
                ExitCode.CONFIG,
                f"federated boosting: {self.classes} classes, depth {self.depth}, learning rate {self.learning_rate}.",
                f"use 2 classes or more, depth up to {DEEPEST} and a learning rate above 0 and up to 1.",
            )

    def parameters(self) -> dict[str, Any]:
        """XGBoost's settings on a node."""
        return boosting_parameters(
            classes=self.classes, depth=self.depth, learning_rate=self.learning_rate / self.nodes, seed=self.seed
        )
