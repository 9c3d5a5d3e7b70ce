"""The demo shop's public side: bundled photos and the table written for them (``assets/NOTICE`` names the sources)."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from mmfed.data.findings import Findings
from mmfed.data.schema import Catalogue
from mmfed.data.sources.items import read_items
from mmfed.errors import ExitCode, MmfedError
from mmfed.rng import hash_uniform

ASSETS = Path(__file__).resolve().parent / "assets"
ITEMS_FILE = "items.csv"
MEDIA_FOLDER = "media"
SMALLEST = 10
LARGEST = 10_000_000

ItemRow = dict[str, str]


def demo_catalogue(folder: Path = ASSETS) -> Catalogue:
    """The catalogue in memory; pictures are paths into the folder, for the bundled shop the installed package.

    Raises:
        MmfedError: bundled files are missing.
    """
    findings = Findings()
    if not (folder / ITEMS_FILE).is_file():
        raise _not_installed(folder / ITEMS_FILE, "no such file")
    catalogue = read_items(folder / ITEMS_FILE, folder, findings)
    findings.raise_first_error()
    if catalogue is None:
        raise RuntimeError("a catalogue that cannot be read must come with an error")
    return catalogue


def item_rows(items: int | None = None) -> list[ItemRow]:
    """The rows of ``items.csv`` for a catalogue of the wanted size.

    Fewer than bundled: an even sample over all categories. More: further offers of the same articles, which share the
    picture and every attribute but have their own id, title, price and seller.

    Raises:
        MmfedError: a size out of range, or ``items.csv`` is missing.
    """
    bundled = _bundled_rows()
    if items is None:
        return bundled
    if not SMALLEST <= items <= LARGEST:
        raise MmfedError(
            ExitCode.CONFIG, f"the demo shop cannot have {items} items.", f"ask for {SMALLEST} to {LARGEST:,} items."
        )
    if items <= len(bundled):
        return [bundled[k * len(bundled) // items] for k in range(items)]
    sellers: dict[str, list[str]] = {}
    for row in bundled:
        known = sellers.setdefault(row["department"], [])
        if row["store"] not in known:
            known.append(row["store"])
    further = np.arange(len(bundled), items)
    discounts = 0.9 + 0.2 * hash_uniform(0, further, np.arange(1))[:, 0]
    return bundled + [
        _further_offer(bundled[k % len(bundled)], k // len(bundled) + 1, discount, sellers)
        for k, discount in zip(further.tolist(), discounts.tolist(), strict=True)
    ]


def _further_offer(row: ItemRow, offer: int, discount: float, sellers: dict[str, list[str]]) -> ItemRow:
    stores = sellers[row["department"]]
    return {
        **row,
        "item": f"{row['item']}-{offer}",
        "title": f"{row['title']} (offer {offer})",
        "price": f"{float(row['price']) * discount:.2f}",
        "store": stores[(stores.index(row["store"]) + offer - 1) % len(stores)],
    }


def _bundled_rows() -> list[ItemRow]:
    path = ASSETS / ITEMS_FILE
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise _not_installed(path, error.strerror or str(error)) from error


def _not_installed(path: Path, why: str) -> MmfedError:
    return MmfedError(ExitCode.DATA, f"{path}: cannot be read ({why}).", "install mmfed again.")
