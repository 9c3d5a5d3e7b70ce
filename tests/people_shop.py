"""A shop where age alone tells what people like: somebody without a history is known by the age band, or not at all."""

from __future__ import annotations

import csv
from pathlib import Path

from mmfed.config import Config, build_config
from mmfed.rng import numpy_generator

BANDS, EDGES, GROUPS = 4, (20, 40, 60), ("north", "south")
LIKED, USERS, EVENTS = 10, 120, 6  # of every band: its own items
ITEMS = BANDS * LIKED
K = 5
CHANCE = K / ITEMS


def write_people_shop(folder: Path, *, shuffled: bool = False, seed: int = 0) -> Path:
    """Everybody takes items of the own age band, in any order; ``shuffled`` gives the ages to others.

    The region says nothing. Titles and weights say nothing either, so nothing but histories tells items apart.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = numpy_generator(seed, "people shop")
    place = generator.permutation(ITEMS)
    band = generator.permutation(USERS) % BANDS
    ages = band * 20 + generator.integers(0, 20, USERS)
    taken = [place[b * LIKED : (b + 1) * LIKED][generator.permutation(LIKED)[:EVENTS]] for b in band]
    _write(folder / "items.csv", ["item", "title", "weight"], [[f"i{n}", f"thing {n}", n % 7] for n in range(ITEMS)])
    events = [
        [f"u{u}", f"i{item}", 1_700_000_000 + 60 * n] for u, row in enumerate(taken) for n, item in enumerate(row)
    ]
    _write(folder / "interactions.csv", ["user", "item", "time"], events)
    told = ages[generator.permutation(USERS)] if shuffled else ages
    people = [[f"u{u}", age, GROUPS[int(generator.integers(2))]] for u, age in enumerate(told)]
    _write(folder / "people.csv", ["user", "age", "region"], people)
    return folder


def people_run(folder: Path, *more: str, asked: bool = True) -> Config:
    """A run without noise on the shop in ``folder / "shop"``; everything is written under ``folder``.

    Args:
        asked: whether people's answers are read.
    """
    people = [f"data.people.age={list(EDGES)}", 'data.people.region=["north","south"]'] if asked else []
    return build_config(
        {},
        [
            "data.source=table",
            f"data.path={folder / 'shop'}",
            "data.split.new_users=0.25",
            "features.modalities=[]",
            "model.dimensions=16",
            "model.name=mf",
            "privacy.mode=none",
            "federation.rounds=25",
            "federation.selection=last",
            f"evaluation.k=[{K}]",
            f"evaluation.metric=recall@{K}",
            "evaluation.bootstrap=20",
            "evaluation.baselines=[]",
            "run.name=people",
            f"run.folder={folder / 'runs'}",
            *people,
            *more,
        ],
    )


def _write(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
