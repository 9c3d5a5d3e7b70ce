"""``mmfed doctor``: is everything here that a run needs?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmfed.cli.options import FormatOption, examples
from mmfed.cli.terminal import Format, emit, say
from mmfed.errors import ExitCode, MmfedError

if TYPE_CHECKING:
    from mmfed.simulation.installation import Check

_MARKS = {"ok": "ok     ", "missing": "missing", "broken": "BROKEN "}


def doctor(
    folder: Annotated[
        Path, typer.Option("--runs", help="Folder of run folders (default runs).", show_default=False)
    ] = Path("runs"),
    output: FormatOption = Format.TEXT,
) -> None:
    """Examine versions, optional packages, pretrained weights, threads, free space and write permission.

    "missing" is optional; "BROKEN" keeps mmfed from working, and the exit code says so.
    """
    from mmfed.encoders.cache import default_cache
    from mmfed.simulation.installation import examine

    checks = examine(folder, default_cache())
    broken = [check for check in checks if check.state == "broken"]
    code = _code(broken)
    if output is Format.JSON:
        emit({"ok": not broken, "checks": [asdict(check) for check in checks]})
        raise typer.Exit(int(code))
    width = max(len(check.name) for check in checks)
    for check in checks:
        say(f"{_MARKS[check.state]}  {check.name:<{width}}  {check.found}")
        if check.fix:
            say(f"{'':<{width + 11}}{check.fix}")
    if broken:
        more = f" ({len(broken) - 1} more above)" if len(broken) > 1 else ""
        raise MmfedError(code, f"{broken[0].name}: {broken[0].found}{more}", broken[0].fix)
    say("Everything that is needed is here.")


def _code(broken: list[Check]) -> ExitCode:
    """Storage for folders, a missing package for the rest."""
    if not broken:
        return ExitCode.OK
    return ExitCode.STORAGE if broken[0].name in ("runs folder", "feature cache") else ExitCode.MISSING_EXTRA


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        short_help="Examine the installation.",
        epilog=examples("mmfed doctor", "mmfed doctor --runs /srv/runs --format json"),
    )(doctor)
