"""A run small enough to be repeated on every carrier, and how far two of its models are apart."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from mmfed.config import Config, build_config
from mmfed.federated.coordinator import server_app
from mmfed.federated.participant import client_app
from mmfed.federated.progress import chosen_model
from mmfed.records import RunFolder
from mmfed.simulation.inprocess import run_inprocess

SETTINGS = (
    'features.modalities=["attributes"]',
    "privacy.mode=none",
    "federation.rounds=3",
    "federation.nodes=2",
    "federation.minimum_nodes=2",
    "federation.round_timeout=120",
    "run.name=small",
)


def settings(folder: Path, *more: str) -> list[str]:
    """Overrides of the small run, which keeps everything it writes in ``folder``."""
    return [*SETTINGS, f"run.folder={folder}", f"features.cache={folder / 'features'}", *more]


def inprocess_model(folder: Path, *more: str) -> dict[str, Tensor]:
    """The model after the small run on the in-process grid."""
    config = build_config({}, settings(folder, *more))
    state = folder / "state"
    run_inprocess(
        server_app(), client_app(state), nodes=config.federation.nodes, state_folder=state, run_config=config.to_flat()
    )
    return final_model(config)


def final_model(config: Config) -> dict[str, Tensor]:
    """What a finished run left in its folder."""
    parameters, _ = chosen_model(RunFolder(config.run.folder / config.run.name), config)
    return parameters


def relative_error(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Euclidean distance of two models over the norm of the first."""
    if one.keys() != other.keys():
        raise AssertionError(f"different parameters: {sorted(one)} and {sorted(other)}")
    first = np.concatenate([one[name].double().numpy().ravel() for name in sorted(one)])
    second = np.concatenate([other[name].double().numpy().ravel() for name in sorted(one)])
    return float(np.linalg.norm(first - second) / np.linalg.norm(first))


def write_shop(folder: Path, *, users: Sequence[int] = range(40), price: float = 1.0) -> None:
    """A ``table`` shop of 30 items; the same user always did the same.

    Args:
        users: whose interactions are in it; nobody's gives a folder without an interactions file.
        price: factor on some of the prices, to make a catalogue that differs.
    """
    folder.mkdir(parents=True)
    items = [
        [f"i{item}", f"thing {item}", round((3 + item) * (price if item % 3 else 1), 2), "abc"[item % 3]]
        for item in range(30)
    ]
    _write_csv(folder / "items.csv", ["item", "title", "price", "category"], items)
    rows = []
    for user in users:
        generator = np.random.default_rng(user)
        for step, item in enumerate(generator.permutation(30)[: 5 + user % 6]):
            rows.append([f"u{user}", f"i{item}", 1_700_000_000 + 3600 * step, "buy"])
    if rows:
        _write_csv(folder / "interactions.csv", ["user", "item", "time", "action"], rows)


def _write_csv(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
