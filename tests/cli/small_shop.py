"""A shop small enough to train on in a moment, and how a command ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SMALL = (
    "data.source=table",
    "data.path=shop",
    'features.modalities=["attributes"]',
    "federation.rounds=2",
    "evaluation.bootstrap=20",
    "evaluation.every=1",
    "model.dimensions=4",
)
PRIVATE = ("privacy.epsilon=4",)


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


def settings(*pairs: str) -> list[str]:
    """``--set`` options: the small shop's, then the given ones."""
    return [part for pair in (*SMALL, *pairs) for part in ("--set", pair)]


def write_shop(folder: Path, users: int = 12) -> Path:
    """A shop of 20 items and some users with 6 interactions each."""
    folder.mkdir(parents=True)
    items = ["item,title,price,category"]
    items += [f"i{n:02d},Thing {n},{n + 1}.50,{'red' if n % 2 else 'blue'}" for n in range(20)]
    rows = ["user,item,time,action,value"]
    for user in range(users):
        for step in range(6):
            item = (user * 3 + step * (1 + user % 3)) % 20
            rows.append(f"u{user:02d},i{item:02d},{1_700_000_000 + 86_400 * step + user},view,")
    (folder / "items.csv").write_text("\n".join(items) + "\n", encoding="utf-8")
    (folder / "interactions.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder
