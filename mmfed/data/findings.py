"""Faults in a shop's files: collected for a report, or raised one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mmfed.errors import ExitCode, MmfedError

Severity = Literal["error", "warning"]
LISTED = 20


@dataclass(frozen=True)
class Finding:
    """One fault and its mend.

    Attributes:
        severity: an ``error`` keeps the shop from loading; after a ``warning`` it loads, as ``message`` says.
        file: relative to the shop's folder.
        row: as a spreadsheet numbers it: in CSV the header is row 1, in Parquet the first record is. None: the file.
        column: None where the fault is not in one column.
    """

    severity: Severity
    file: str
    row: int | None
    column: str | None
    message: str
    fix: str

    @property
    def where(self) -> str:
        """File, row and column in words."""
        row = "" if self.row is None else f", row {self.row}"
        return self.file + row + ("" if self.column is None else f", column {self.column}")

    def __str__(self) -> str:
        return f"{self.where}: {self.message}."


class Findings:
    """Collects faults in the order they are met; of one kind the first ``LISTED`` rows are listed, the rest counted."""

    def __init__(self) -> None:
        self.listed: list[Finding] = []
        self.errors = 0
        self.warnings = 0
        self._noted: dict[str, int | None] = {}

    def add(
        self,
        severity: Severity,
        file: str,
        what: str,
        fix: str,
        *,
        column: str | None = None,
        rows: Sequence[int] | None = None,
        cells: Sequence[object] = (),
    ) -> None:
        """Record a fault of the file (``rows`` None) or of each of ``rows``.

        Args:
            what: the fault without the cell's content; it may hold ``{cell}``.
            cells: content of the first rows, aligned with ``rows``.
        """
        if rows is not None and len(rows) == 0:
            return
        count = 1 if rows is None else len(rows)
        if severity == "error":
            self.errors += count
        else:
            self.warnings += count
            summary = what.replace(" {cell}", "").replace("{cell} ", "")
            place = file if column is None else f"{file}, column {column}"
            told = f"{place}: {summary}"
            self._noted[told] = None if rows is None else (self._noted.get(told) or 0) + count
        if rows is None:
            self.listed.append(Finding(severity, file, None, column, what, fix))
            return
        for place, row in enumerate(rows[:LISTED]):
            cell = _shown(cells[place]) if place < len(cells) else ""
            self.listed.append(Finding(severity, file, int(row), column, what.replace("{cell}", cell), fix))
        if count > LISTED:
            more = f"{count - LISTED} more rows like the ones before (the last is row {int(rows[-1])})"
            self.listed.append(Finding(severity, file, None, column, more, fix))

    @property
    def notes(self) -> list[str]:
        """One line per kind of warning, with its rows counted over all parts of a file."""
        return [told if rows is None else f"{told} ({rows} rows)" for told, rows in self._noted.items()]

    def raise_first_error(self, *, listed_by: str | None = "mmfed data check") -> None:
        """Args:
        listed_by: the command that shows the other errors; None where there is none.

        Raises:
        MmfedError: the first error, in the words the report uses; nothing happens without one.
        """
        first = next((finding for finding in self.listed if finding.severity == "error"), None)
        if first is not None:
            see = "" if listed_by is None else f": see {listed_by}"
            more = f" ({self.errors - 1} more errors{see})" if self.errors > 1 else ""
            raise MmfedError(ExitCode.DATA, f"{first}{more}", first.fix)


def _shown(cell: object) -> str:
    """A cell's content, quoted, on one line and not too long."""
    text = repr(cell) if isinstance(cell, str) else str(cell)
    return text if len(text) <= 60 else text[:57] + "…" + text[-1]
