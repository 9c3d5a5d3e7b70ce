"""``mmfed new``: a folder with what coordinator and devices run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmfed.cli.options import FormatOption, examples
from mmfed.cli.terminal import Format, emit, say


def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    output: FormatOption = Format.TEXT,
) -> None:
    """Copy server/, client/ and simulations/ into DIR, ready for flwr run and for editing."""
    from mmfed.simulation.app_folder import new_app

    written = new_app(folder)
    if output is Format.JSON:
        emit({"folder": str(folder), "files": [str(path.relative_to(folder)) for path in written]})
        return
    say(f"{folder}: {len(written)} files. Start with:")
    say(f"  mmfed simulate {folder}/simulations/demo.toml     everything on this machine")
    say(f"  {folder}/server/README.md                         a coordinator host")
    say(f"  {folder}/client/README.md                         a device")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        short_help="Copy what hosts and devices run.",
        epilog=examples("mmfed new myfederation", "mmfed new myfederation --format json"),
    )(new)
