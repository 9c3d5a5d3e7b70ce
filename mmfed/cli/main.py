"""The ``mmfed`` command. Modules of single commands import what is heavy only when they run."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer
import typer.core
import typer.main

from mmfed import __version__
from mmfed.cli import (
    audit,
    behaviour,
    cold_start,
    compare,
    data,
    device,
    doctor,
    evaluate,
    modalities,
    new,
    privacy,
    recommend,
    report,
    simulate,
)
from mmfed.cli.faults import exit_code
from mmfed.cli.options import examples
from mmfed.errors import ExitCode

# Nothing is reported home, and no library speaks unasked. Set before anything imports them.
_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

typer.core.HAS_RICH = False  # plain help: with rich, typer 0.20 escapes "[required]" for a markup nobody renders

app = typer.Typer(
    name="mmfed",
    help="Privacy-preserving federated training of multimodal recommenders.",
    epilog=examples(
        "mmfed simulate                      # the bundled demo shop, about a minute",
        "mmfed recommend demo --user shopper-0000042",
        "mmfed audit demo",
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (simulate, evaluate, recommend, compare, report, audit, behaviour, cold_start, modalities):
    command.add_to(app)
app.add_typer(privacy.app)
app.add_typer(data.app)
app.add_typer(device.app)
doctor.add_to(app)
new.add_to(app)


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"mmfed {__version__}\n")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    del version


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; never raises (docs/exit-codes.md)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _quiet()
    try:
        code = typer.main.get_command(app).main(given, prog_name="mmfed", standalone_mode=False)
        if code == ExitCode.INTERRUPTED:  # typer swallows Ctrl-C and gives its exit code
            raise KeyboardInterrupt
        sys.stdout.flush()
    except BaseException as fault:
        return exit_code(fault, given)
    return int(code or 0)


def _quiet() -> None:
    """No telemetry, no library chatter (``MMFED_LOG=debug`` lets all of it through), no fault over a character."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    if os.environ.get("MMFED_LOG", "").lower() == "debug":
        logging.basicConfig(level=logging.DEBUG)
        return
    logging.getLogger("mmfed").addHandler(logging.NullHandler())
    logging.getLogger("flwr").disabled = True  # importing flwr sets its level again
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
