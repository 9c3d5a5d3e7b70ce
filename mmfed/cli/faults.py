"""Every way a command can end: exit codes, and one line of error and one of mend."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence

import click

from mmfed.errors import ExitCode, MmfedError

_RESUMABLE = ("simulate", "compare")
_BROKEN_PIPE = 141  # 128 + SIGPIPE, what a shell reports for any program whose reader went away


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether ``--format json`` is among the arguments (needed before they are parsed, and when they cannot be)."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    return any(one == "--format=json" or (one == "--format" and value == "json") for one, value in pairs)


def exit_code(fault: BaseException, arguments: Sequence[str]) -> int:
    """Report what ended a command and give its exit code."""
    if isinstance(fault, MmfedError):
        _report(fault.code, fault.message, fault.fix, arguments)
        return int(fault.code)
    # Typer turns a broken pipe into exit 1, raised while handling the original.
    causes = (fault, fault.__context__)
    if any(isinstance(one, BrokenPipeError) for one in causes):
        _silence_stdout()
        return _BROKEN_PIPE
    if any(isinstance(one, (KeyboardInterrupt, click.Abort)) for one in causes):
        resumable = bool(arguments) and arguments[0] in _RESUMABLE
        fix = "continue with --resume" if resumable else "run the command again"
        _report(ExitCode.INTERRUPTED, "interrupted", fix, arguments, f"interrupted; {fix}")
        return int(ExitCode.INTERRUPTED)
    if isinstance(fault, click.exceptions.Exit):
        return int(fault.exit_code)
    if isinstance(fault, SystemExit):
        return fault.code if isinstance(fault.code, int) else int(fault.code is not None)
    if isinstance(fault, click.UsageError):
        command = "mmfed" if fault.ctx is None else fault.ctx.command_path
        _report(ExitCode.USAGE, fault.format_message(), f"see {command} --help", arguments)
        return int(ExitCode.USAGE)
    _report_defect(fault, arguments)
    return int(ExitCode.FAULT)


def _report(code: ExitCode, message: str, fix: str, arguments: Sequence[str], text: str | None = None) -> None:
    message, fix = _one_line(message), _one_line(fix)
    if wants_json(arguments):
        tree = {"error": {"code": int(code), "name": code.name, "message": message, "fix": fix}}
        sys.stdout.write(json.dumps(tree, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stderr.write((text or f"error: {message}\nfix: {fix}") + "\n")


def _report_defect(fault: BaseException, arguments: Sequence[str]) -> None:
    if fault.__traceback__ is not None:
        sys.stderr.write("".join(traceback.format_exception(fault)))
    message = f"this is a defect in mmfed: {type(fault).__name__}: {fault}"
    _report(ExitCode.FAULT, message, "report it with the lines above and the output of mmfed doctor.", arguments)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _silence_stdout() -> None:
    """Point standard output nowhere, so that Python's flush at exit does not complain again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
