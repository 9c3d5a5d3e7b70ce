"""A ``table`` shop of 30 items and a dozen users, and configurations of runs on it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from mmfed.config import Config, build_config

ITEMS, USERS = 30, 12


def write_tiny_shop(folder: Path) -> Path:
    """Items with attributes only; every user a few weeks of interactions."""
    folder.mkdir(parents=True, exist_ok=True)
    items = [[f"i{item}", f"thing {item}", 3 + item, "abc"[item % 3]] for item in range(ITEMS)]
    _write(folder / "items.csv", ["item", "title", "price", "category"], items)
    rows = []
    for user in range(USERS):
        generator = np.random.default_rng(user)
        for step, item in enumerate(generator.permutation(ITEMS)[: 6 + user % 5]):
            rows.append([f"u{user}", f"i{item}", 1_700_000_000 + 3 * 86_400 * step, "buy"])
    _write(folder / "interactions.csv", ["user", "item", "time", "action"], rows)
    return folder


def tiny_run(folder: Path, *more: str) -> Config:
    """A run of four rounds on the shop in ``folder / "shop"``; everything is written under ``folder``."""
    return build_config(
        {},
        [
            "data.source=table",
            f"data.path={folder / 'shop'}",
            'features.modalities=["attributes"]',
            f"features.cache={folder / 'features'}",
            "model.dimensions=6",
            "training.positions=4",
            "training.pretraining=20",
            "federation.rounds=4",
            "privacy.epsilon=none",
            "privacy.noise_multiplier=1.0",
            "evaluation.every=2",
            "evaluation.bootstrap=20",
            "evaluation.k=[10]",
            "run.name=tiny",
            f"run.folder={folder / 'runs'}",
            *more,
        ],
    )


def _write(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
