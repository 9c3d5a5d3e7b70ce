"""Options and arguments that several commands share, and examples under ``--help``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmfed.cli.terminal import Format

FormatOption = Annotated[
    Format,
    typer.Option(
        "--format",
        show_default=False,
        help="text (the default) for people; json: stdout holds one JSON document, progress goes to stderr.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, e.g. federation.rounds=20; repeatable."),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue after an interruption; what is done stays done.")
]
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Start anew: what stands under this name is renamed NAME.1, nothing is deleted.")
]
# Arguments are explained in the commands' docstrings: click 8.5 drops the help that typer 0.20 gives an argument.
RunArgument = Annotated[str, typer.Argument(metavar="RUN", show_default=False)]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder of the shop, if it is no longer where the run found it.")
]


def examples(*lines: str) -> str:
    """Examples for the end of a command's help, kept line by line."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
