"""``mmfed recommend``: what a run's model would show to somebody."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mmfed.cli.options import DataOption, FormatOption, RunArgument, examples
from mmfed.cli.terminal import Format, emit, remark, say, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmfed.simulation.recommend import Item

_HISTORY_SHOWN = 10


def recommend(
    name: RunArgument,
    user: Annotated[str | None, typer.Option("--user", help="Id of a person of the shop.")] = None,
    history: Annotated[
        str | None,
        typer.Option("--history", metavar="A,B,C", help="Item ids, oldest first, of somebody training never saw."),
    ] = None,
    query: Annotated[
        str | None, typer.Option("--query", metavar="WORDS", help="What the person looks for right now.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Length of the list.", min=1, show_default=False)] = 10,
    data: DataOption = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Show the list that the model of RUN gives to a person; nothing the person already touched is in it.

    With a query the list answers it, re-ranked by what the person did.

    RUN is the folder of a run, or its name under runs/.
    """
    if (user is not None and history is not None) or (user is None and history is None and query is None):
        raise typer.BadParameter("give exactly one of --user and --history; --query goes with either, or alone")
    from mmfed.cli.progress import RunProgress
    from mmfed.simulation.run_folders import open_run

    run, config = open_run(name, data=data)
    from mmfed.federated.workspace import load_workspace
    from mmfed.simulation.recommend import recommend_for_history, recommend_for_user

    with RunProgress(config) as progress:
        workspace = load_workspace(config, progress=progress.features)
    if user is not None:
        found = recommend_for_user(run, config, workspace, user, k=k, query=query)
    else:
        found = recommend_for_history(run, config, workspace, (history or "").split(","), k=k, query=query)
    if output is Format.JSON:
        emit({"run": str(run.path), **asdict(found)})
        return
    who = f"{found.user} did" if found.user else "This person did"
    older = len(found.history) - _HISTORY_SHOWN
    if found.history:
        say(f"{who} last:" + (f" (and {older} before)" if older > 0 else ""))
        _show_items(found.history[-_HISTORY_SHOWN:], scored=False)
    if query is not None:
        say(f"\nLooks for: {query}")
    say(f"\nRecommended by {run.path.name}, model of round {found.round}:")
    _show_items(found.items, scored=True)
    if len(found.items) < k:
        remark(f"only {len(found.items)} items are left that this person has not touched")


def _show_items(items: Sequence[Item], *, scored: bool) -> None:
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


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        short_help="Show what a run's model recommends.",
        epilog=examples(
            "mmfed recommend demo --user shopper-0000042",
            "mmfed recommend demo --history clothing-001,clothing-134 -k 5",
            'mmfed recommend demo --user shopper-0000042 --query "warm jacket"',
            "mmfed recommend runs/demo --user shopper-0000042 --format json",
        ),
    )(recommend)
