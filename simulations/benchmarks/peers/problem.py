"""A workload as plain arrays and numbers, so that a peer in another environment can compute it without mmfed's models.

This file, ``draws`` and ``towers`` import nothing of mmfed but ``mmfed.rng`` (NumPy alone): a virtual environment that
holds a peer and PyTorch is enough.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of a round; names as in mmfed's configuration.

    Attributes:
        pooled: the state is pooled from the history and meets all items in a softmax; otherwise it is the private
            vector alone and meets sampled items in a binary cross-entropy.
        tower: "gated" fusion of the features, or "ids" alone.
    """

    pooled: bool
    tower: str
    items: int
    seed: int
    round_number: int
    positions: int
    negatives: int
    learning_rate: float
    private_learning_rate: float
    clip_norm: float
    history_dropout: float
    decays: tuple[float, ...]
    history: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """What a peer is given.

    Attributes:
        parameters: the shared parameters by mmfed's names, float32.
        features: [items, width] of all modalities side by side, already multiplied by the content scale, float32;
            no column for ids alone.
        widths: of the modalities.
        keys: [users] uint64, names a user in the random streams.
        indptr, items: of the histories, see ``mmfed.training.batch.Histories``.
        vectors: [users, d] private vectors, float32; no column for a pooled state.
    """

    settings: Settings
    parameters: dict[str, Array]
    features: Array
    widths: tuple[int, ...]
    keys: Array
    indptr: Array
    items: Array
    vectors: Array

    @property
    def users(self) -> int:
        return len(self.keys)

    def history(self, user: int) -> Array:
        """[events] the user's items in time order."""
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    def save(self, path: Path) -> None:
        about = json.dumps({"settings": asdict(self.settings), "widths": self.widths})
        named = {f"parameter {name}": value for name, value in self.parameters.items()}
        shown = {"features": self.features, "keys": self.keys, "indptr": self.indptr, "items": self.items}
        np.savez(path, allow_pickle=False, about=np.array(about), vectors=self.vectors, **shown, **named)

    @classmethod
    def load(cls, path: Path) -> Problem:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            settings = about["settings"]
            settings["decays"] = tuple(settings["decays"])
            return cls(
                settings=Settings(**settings),
                parameters={
                    name.removeprefix("parameter "): file[name] for name in file.files if name.startswith("parameter ")
                },
                widths=tuple(about["widths"]),
                **{name: file[name] for name in ("features", "keys", "indptr", "items", "vectors")},
            )
