"""Tables of what a person touched and is shown: items, stores, a campaign."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmfed.cli.terminal import say, show

if TYPE_CHECKING:
    from mmfed.simulation.offers import Offer, Store
    from mmfed.simulation.recommend import Item

_HISTORY_SHOWN = 10


def show_history(user: str | None, history: Sequence[Item]) -> None:
    """The last items a person touched; nothing without any."""
    if not history:
        return
    older = len(history) - _HISTORY_SHOWN
    who = f"{user} did" if user else "This person did"
    say(f"{who} last:" + (f" (and {older} before)" if older > 0 else ""))
    show_items(history[-_HISTORY_SHOWN:], scored=False)


def show_items(items: Sequence[Item], *, scored: bool) -> None:
    """Items with the columns that any of them has."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    columns = ["item", "title", "category", "price", "store"]
    kept = [one for one in columns if any(getattr(item, one) is not None for item in items)]
    if scored:
        table.add_column("", justify="right")
    for one in kept:
        table.add_column(one, justify="right" if one == "price" else "left")
    if scored:
        table.add_column("score", justify="right")
    for place, item in enumerate(items, start=1):
        row = [_cell(getattr(item, one)) for one in kept]
        table.add_row(*(Text(cell) for cell in ([str(place), *row, f"{item.score:.2f}"] if scored else row)))
    show(table)


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.2f}"


def show_stores(stores: Sequence[Store]) -> None:
    """Stores with the items that make their score."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", justify="right")
    table.add_column("store")
    table.add_column("because of")
    table.add_column("score", justify="right")
    for place, one in enumerate(stores, start=1):
        because = "; ".join(item.title for item in one.items)
        table.add_row(*(Text(cell) for cell in (str(place), one.store, because, f"{one.score:.2f}")))
    show(table)


def show_campaign(offer: Offer | None) -> None:
    """A campaign with the items that carried it, or that there is none."""
    if offer is None:
        say("No campaign: none has items this person would like better than as many random ones.")
        return
    say(offer.campaign + ("" if offer.text is None else f": {offer.text}"))
    say(f"{offer.score:.2f} standard deviations above chance, because of:")
    show_items(offer.items, scored=True)
