"""``mmfed data``: examine a shop's files, or write a demo shop of any size."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mmfed.cli.options import FormatOption, SetOption, examples
from mmfed.cli.terminal import Format, emit, say
from mmfed.errors import ExitCode, MmfedError

app = typer.Typer(
    name="data", help="Check a shop's files, or write a demo shop.", no_args_is_help=True, rich_markup_mode=None
)


@app.command(
    short_help="Report every fault of a shop's files.",
    epilog=examples(
        "mmfed data check myshop",
        "mmfed data check myshop --set 'data.people.age=[18,25,35,45,55]'",
        "mmfed data check myshop --format json",
    ),
)
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    settings: SetOption = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Examine the shop in DIR and report every fault with its file, row, column and mend.

    Exit code 4 if a fault keeps the shop from loading; after warnings it loads. docs/data.md describes the files.
    Settings of data are those to be trained with: what is read of people.csv, how the tables are cleaned.
    """
    from mmfed.config import build_config
    from mmfed.data.check import check_shop

    chosen = build_config({"data": {"source": "table", "path": str(folder)}}, settings or [])
    report = check_shop(folder, chosen.data)
    if output is Format.JSON:
        findings = [asdict(finding) for finding in report.findings]
        emit({"folder": str(folder), "ok": report.ok, "counts": dict(report.counts), "findings": findings})
        raise typer.Exit(0 if report.ok else int(ExitCode.DATA))
    for finding in report.findings:
        say(
            f"{finding.severity}: {finding}\n    {finding.fix}"
            if finding.severity == "warning"
            else f"FAULT: {finding}\n    {finding.fix}"
        )
    counts = report.counts
    say(
        f"{folder}: {counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} interactions, "
        f"{counts['pictures']:,} pictures; {counts['errors']} faults, {counts['warnings']} warnings."
    )
    if not report.ok:
        first = next(finding for finding in report.findings if finding.severity == "error")
        more = counts["errors"] - 1
        raise MmfedError(ExitCode.DATA, f"{first}" + (f" ({more} more above)" if more else ""), first.fix)
    say(f"The shop loads: mmfed simulate --set data.source=table --set data.path={folder}")


@app.command(
    short_help="Write a demo shop of any size.",
    epilog=examples(
        "mmfed data synth bigshop --users 10000",
        "mmfed data synth hugeshop --users 1000000 --items 50000 --seed 7",
    ),
)
def synth(
    folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    users: Annotated[int, typer.Option(help="Simulated shoppers.")],
    items: Annotated[int | None, typer.Option(help="Size of the catalogue; default: the bundled items.")] = None,
    seed: Annotated[int, typer.Option(help="Of the shoppers (default 0).", show_default=False, min=0)] = 0,
    output: FormatOption = Format.TEXT,
) -> None:
    """Write a demo shop with simulated shoppers into DIR: items.csv, media/, interactions.parquet.

    Memory does not grow with the number of users; DIR appears only when complete.
    """
    from mmfed.cli.progress import RunProgress
    from mmfed.data.demo_synth import synthesise

    with RunProgress(None) as progress:
        synthesise(
            folder, users=users, seed=seed, items=items, progress=lambda done: progress.count("shoppers", done, users)
        )
    if output is Format.JSON:
        emit({"folder": str(folder), "users": users, "items": items, "seed": seed})
        return
    say(f"{folder}: a shop with {users:,} simulated shoppers.")
    say(f"Train on it: mmfed simulate --set data.source=table --set data.path={folder}")
