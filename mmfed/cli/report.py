"""``mmfed report``: the report of a finished run as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mmfed.cli.options import FormatOption, RunArgument, examples
from mmfed.cli.terminal import Format, emit, remark, say
from mmfed.errors import ExitCode, MmfedError

if TYPE_CHECKING:
    from mmfed.records import RunFolder


def report(name: RunArgument, output: FormatOption = Format.TEXT) -> None:
    """Write report.html of a run again from what the run folder holds.

    RUN is the folder of a run, or its name under runs/.
    """
    from mmfed.simulation.run_folders import open_run

    run, _ = open_run(name)
    path = write_report(run)
    if output is Format.JSON:
        emit({"report": str(path)})
    else:
        say(f"Report: {path}")


def write_report(run: RunFolder) -> Path:
    """Write the report.

    Raises:
        MmfedError: a package it needs is not installed, or the run is not finished.
    """
    try:
        from mmfed.reports.run_report import write_run_report
    except ModuleNotFoundError as missing:
        raise MmfedError(
            ExitCode.MISSING_EXTRA,
            f"{run.report}: not written, {missing.name} is not installed.",
            "pip install 'mmfed[reports]', then mmfed report.",
        ) from None
    return write_run_report(run)


def try_report(run: RunFolder) -> Path | None:
    """The report where the extra is installed; without it one remark, since the figures stand in the run folder."""
    try:
        return write_report(run)
    except MmfedError as fault:
        if fault.code is not ExitCode.MISSING_EXTRA:
            raise
        remark(f"no report: {fault.message} {fault.fix}")
        return None


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        short_help="Write a run's report.html again.",
        epilog=examples("mmfed report demo", "mmfed report runs/demo --format json"),
    )(report)
