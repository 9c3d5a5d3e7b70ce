"""Faults named so that a person can act on them: what is wrong, where, and the mend."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes of the ``mmfed`` command; each has one meaning (docs/exit-codes.md)."""

    OK = 0
    FAULT = 1  # a defect in mmfed itself: the only case that shows a traceback
    USAGE = 2  # unknown option or argument
    CONFIG = 3  # a key or value of the configuration
    DATA = 4  # the shop's own files
    FEATURES = 5  # encoders, pretrained weights, feature cache
    PRIVACY = 6  # privacy parameters or an exhausted budget
    FEDERATION = 7  # nodes, rounds, transport
    STORAGE = 8  # run folder, disk, damaged checkpoint
    AUDIT = 9  # a ledger that does not hold
    MISSING_EXTRA = 10  # an optional dependency that is not installed
    INTERRUPTED = 130  # Ctrl-C


class MmfedError(Exception):
    """A fault a person can mend.

    Args:
        code: what the command exits with.
        message: what is wrong and where (file, row, column, key), one line.
        fix: what to do about it, one line.
    """

    def __init__(self, code: ExitCode, message: str, fix: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} Fix: {self.fix}"

    def __reduce__(self) -> tuple[type[MmfedError], tuple[ExitCode, str, str]]:
        return type(self), (self.code, self.message, self.fix)
