"""The tiny shop and runs on it from the command line, and how a command ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

SMALL = (
    "data.source=table",
    'features.modalities=["attributes"]',
    "federation.rounds=2",
    "evaluation.bootstrap=20",
    "evaluation.every=1",
    "model.dimensions=4",
    "training.pretraining=20",
)
GIVEN_NOISE = ("privacy.epsilon=none", "privacy.noise_multiplier=2.0")  # record mode: saves seconds of planning


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


def options(*pairs: str, shop: str = "shop") -> list[str]:
    """``--set`` options: the tiny shop's, then the given ones."""
    return [part for pair in (*SMALL, f"data.path={shop}", *pairs) for part in ("--set", pair)]
