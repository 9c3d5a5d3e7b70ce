"""A shop where people say what they want before they take it, and nothing else tells it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from mmfed.config import Config, build_config

COLOURS = ("red", "blue", "green", "black", "yellow")
THINGS = ("shoes", "umbrella", "teapot", "guitar", "lamp", "backpack", "scarf", "bicycle")
ITEMS, USERS, EVENTS = len(COLOURS) * len(THINGS), 30, 8
START, GAP = 1_700_000_000, 86_400


def write_own_content_shop(folder: Path, *, shuffled: bool = False) -> Path:
    """Everybody takes random items, each a minute after a query for it; ``shuffled`` gives the queries to others."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [(colour, thing) for colour in COLOURS for thing in THINGS]
    _write(folder / "items.csv", ["item", "title"], [[f"i{n}", f"{c} {t}"] for n, (c, t) in enumerate(names)])
    taken = np.stack([np.random.default_rng(user).permutation(ITEMS)[:EVENTS] for user in range(USERS)])
    events = [
        [f"u{user}", f"i{item}", START + GAP * step] for user, row in enumerate(taken) for step, item in enumerate(row)
    ]
    _write(folder / "interactions.csv", ["user", "item", "time"], events)
    writer = np.roll(np.arange(USERS), 1) if shuffled else np.arange(USERS)
    queries = [
        [f"u{writer[user]}", START + GAP * step - 60, f"{names[item][1]} in {names[item][0]}"]
        for user, row in enumerate(taken)
        for step, item in enumerate(row)
    ]
    _write(folder / "own_content.csv", ["user", "time", "text"], queries)
    return folder


def own_content_run(folder: Path, *more: str) -> Config:
    """A run without noise on the shop in ``folder / "shop"``; everything is written under ``folder``."""
    return build_config(
        {},
        [
            "data.source=table",
            f"data.path={folder / 'shop'}",
            'features.modalities=["text"]',
            f"features.cache={folder / 'features'}",
            "features.text.dimensions=12",
            "model.dimensions=16",
            "model.name=mf",
            "privacy.mode=none",
            "federation.rounds=25",
            "evaluation.k=[5]",
            "evaluation.metric=recall@5",
            "evaluation.bootstrap=20",
            "evaluation.baselines=[]",
            "run.name=own",
            f"run.folder={folder / 'runs'}",
            *more,
        ],
    )


def _write(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
