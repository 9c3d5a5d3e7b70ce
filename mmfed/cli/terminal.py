"""What a command writes where: results to stdout (text or JSON), progress and remarks to stderr."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console

if TYPE_CHECKING:
    from rich.console import RenderableType

_WIDE = 200  # columns where nobody's window limits them


class Format(StrEnum):
    """How a result is written."""

    TEXT = "text"
    JSON = "json"


class _Pipe(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Rich would exit by itself; the reader of our output went away, and ``run`` deals with that."""
        raise


def results() -> Console:
    """Standard output: plain when it is not a terminal."""
    return _console(stderr=False)


def remarks() -> Console:
    """Standard error, for progress and remarks."""
    return _console(stderr=True)


def say(text: str) -> None:
    """One paragraph of a result."""
    results().print(text, markup=False, highlight=False, soft_wrap=True)


def remark(text: str) -> None:
    """One line beside the result."""
    remarks().print(text, markup=False, highlight=False, soft_wrap=True)


def show(renderable: RenderableType) -> None:
    """A table or other renderable as a result."""
    results().print(renderable)


def emit(value: Any) -> None:
    """A result as one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n")


def is_narrow() -> bool:
    """Whether a table of figures with intervals does not fit on a line."""
    return results().width < 150


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    interactive = stream.isatty() and os.environ.get("TERM") != "dumb"
    return _Pipe(stderr=stderr, width=None if interactive else _WIDE, force_terminal=None if interactive else False)
