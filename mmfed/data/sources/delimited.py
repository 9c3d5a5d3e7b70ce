"""CSV and Parquet as columns, with every fault of the file itself named.

A CSV comes back as strings, so that a bad cell can be shown as it stands; a Parquet file keeps its own types.
"""

from __future__ import annotations

import codecs
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import polars as pl

from mmfed.data.findings import LISTED, Findings

_SEPARATORS = (",", ";", "\t")
_HEAD = 1 << 16
_PARQUET_FIX = "write the file again; it may have been cut off while copying."
_QUOTE_FIX = 'close every double quote, and write a double quote inside a cell as "".'


@dataclass(frozen=True, eq=False)
class TableFile:
    """A file as columns.

    Attributes:
        name: the file's name, for findings.
        frame: columns by trimmed lower-case name.
        row_numbers: [records] as a person counts: from 2 in CSV, after the header; from 1 in Parquet. Blank rows are
            counted, but are no records.
        header: all names of the file, those that were not read included.
    """

    name: str
    frame: pl.DataFrame
    row_numbers: pl.Series
    header: tuple[str, ...]

    @classmethod
    def of(cls, name: str, frame: pl.DataFrame, header: list[str], *, first_row: int) -> TableFile:
        """Number the rows and leave out the blank ones."""
        numbers = pl.int_range(first_row, first_row + frame.height, dtype=pl.Int64, eager=True)
        if frame.width == 0:
            return cls(name, frame, numbers, tuple(header))
        filled = frame.select(pl.any_horizontal(pl.all().is_not_null())).to_series()
        if not filled.all():
            frame, numbers = frame.filter(filled), numbers.filter(filled)
        return cls(name, frame, numbers, tuple(header))

    def rows(self, mask: pl.Series) -> list[int]:
        """The row numbers where ``mask`` [records] is true."""
        return self.row_numbers.filter(mask).to_list()


def find_table(folder: Path, stem: str, findings: Findings) -> Path | None:
    """``stem.csv`` or ``stem.parquet`` in ``folder``, whichever is there."""
    found = [path for path in (folder / f"{stem}.csv", folder / f"{stem}.parquet") if path.is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        findings.add("error", f"{stem}.csv", f"{stem}.parquet is there as well", "keep one of the two.")
    else:
        fix = f"put {stem}.csv or {stem}.parquet into {folder} (docs/data.md shows the columns)."
        findings.add("error", f"{stem}.csv", "no such file", fix)
    return None


def read_table_file(path: Path, findings: Findings, only: tuple[str, ...] | None = None) -> TableFile | None:
    """Read a table; None where nothing can be read.

    Args:
        only: names of the columns to keep; None keeps all.
    """
    try:
        if path.stat().st_size == 0:
            findings.add("error", path.name, "the file is empty", "write a header and at least one row.")
            return None
        return _read_parquet(path, findings, only) if path.suffix == ".parquet" else _read_csv(path, findings, only)
    except OSError as error:
        findings.add("error", path.name, f"cannot be read ({error.strerror})", "make the file readable.")
        return None


def require_columns(table: TableFile, names: tuple[str, ...], findings: Findings) -> bool:
    """Whether all of ``names`` are there; each missing one is an error."""
    present = table.header
    missing = [name for name in names if name not in table.frame.columns]
    for name in missing:
        close = next((other for other in present if len(other) < 20 and name in other), None)
        fix = f"rename the column {close} to {name}." if close else f"add a column with the header {name}."
        shown = ", ".join(present[:12]) + (", …" if len(present) > 12 else "")
        findings.add("error", table.name, f"there is no column {name} among: {shown}", fix)
    return not missing


def _read_csv(path: Path, findings: Findings, only: tuple[str, ...] | None) -> TableFile | None:
    head = csv_head(path, findings)
    if head is None:
        return None
    separator, header, line_end = head
    names = header_names(header, path.name, findings)
    if names is None:
        return None
    wanted = [i for i, name in enumerate(names) if name and (only is None or name in only)]
    frame = _parse_csv(path, findings, separator, line_end, len(names), wanted)
    if frame is None:
        return None
    # Names are set here rather than by polars, which renames repeated ones.
    frame = frame.slice(1).rename({f"column_{i + 1}": names[i] for i in wanted})
    return TableFile.of(path.name, frame, names, first_row=2)


def read_csv_bytes(
    source: Path | IO[bytes], separator: str, line_end: str, width: int, wanted: list[int], *, ragged: bool = False
) -> pl.DataFrame:
    """Rows of a CSV, its header among them, as strings in columns ``column_1`` … of those ``wanted``.

    Args:
        width: fields in the header.
        ragged: whether rows with more fields are cut off.

    Raises:
        polars.exceptions.PolarsError: the rows do not fit, or are not UTF-8.
    """
    return pl.read_csv(
        source,
        separator=separator,
        has_header=False,
        infer_schema=False,
        eol_char=line_end,
        schema={f"column_{i + 1}": pl.String for i in range(width)},
        columns=wanted or [0],
        truncate_ragged_lines=ragged,
    )


def _parse_csv(
    path: Path, findings: Findings, separator: str, line_end: str, width: int, wanted: list[int]
) -> pl.DataFrame | None:
    try:
        return read_csv_bytes(path, separator, line_end, width, wanted)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if _not_utf8(path, findings) or not _misshapen(path, findings, separator, width, reason):
        return None
    try:
        return read_csv_bytes(path, separator, line_end, width, wanted, ragged=True)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None


def csv_head(path: Path, findings: Findings) -> tuple[str, list[str], str] | None:
    """Separator, header fields and line end of a CSV."""
    with open(path, "rb") as file:
        start = file.read(_HEAD)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        findings.add("error", path.name, "the file is UTF-16, not UTF-8", 'save it as "CSV UTF-8".')
        return None
    line_end = "\n" if b"\n" in start or b"\r" not in start else "\r"
    first = start.split(line_end.encode(), 1)[0].removeprefix(codecs.BOM_UTF8)
    if b"\x00" in first:
        findings.add("error", path.name, "the file is not text: row 1 holds NUL bytes", 'save it as "CSV UTF-8".')
        return None
    try:
        text = first.decode("utf-8").rstrip("\r")
    except UnicodeDecodeError:
        _not_utf8(path, findings)
        return None
    separator = max(_SEPARATORS, key=text.count)
    try:
        header = next(csv.reader([text], delimiter=separator, strict=True), [])
    except csv.Error:
        findings.add("error", path.name, "a double quote is not closed", _QUOTE_FIX, rows=[1])
        return None
    return separator, header, line_end


def header_names(header: list[str], file: str, findings: Findings) -> list[str] | None:
    """Column names, trimmed and in lower case; None, with a finding, where they cannot be told apart."""
    names = [name.strip().lower() for name in header]
    if not any(names):
        findings.add(
            "error", file, "the header is empty", "write the names of the columns into the first row.", rows=[1]
        )
        return None
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    for name in repeated:
        findings.add("error", file, "the header holds this column twice", "rename or drop one.", column=name, rows=[1])
    return None if repeated else names


def _not_utf8(path: Path, findings: Findings) -> bool:
    """Name the first byte that is not UTF-8, if there is one; reads in blocks."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    before, row, pending = 0, 1, b""
    with open(path, "rb") as file:
        while True:
            block = file.read(1 << 20)
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                offset = before - len(pending) + error.start
                row += (pending + block)[: error.start].count(b"\n")
                value = error.object[error.start]
                fix = 'save the file as "CSV UTF-8" (it may be Latin-1 or Windows-1252 now).'
                what = f"byte {offset + 1} (0x{value:02x}) is not UTF-8"
                findings.add("error", path.name, what, fix, rows=[row])
                return True
            if not block:
                return False
            consumed = pending + block
            pending = decoder.getstate()[0]
            row += consumed[: len(consumed) - len(pending)].count(b"\n")
            before += len(block)


def _misshapen(path: Path, findings: Findings, separator: str, width: int, reason: str) -> bool:
    """Name the rows that break the shape of the table; true where the rest of the file can still be read."""
    wide: list[int] = []
    counts: list[int] = []
    stray = last = 0
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        try:
            for last, fields in enumerate(reader, start=1):
                if len(fields) > width:
                    wide.append(last)
                    counts.append(len(fields))
                elif not stray and any(field.count('"') % 2 for field in fields):
                    stray = last
        except csv.Error:
            findings.add("error", path.name, "a double quote is stray or not closed", _QUOTE_FIX, rows=[last + 1])
            return False
    if not wide and stray:
        findings.add("error", path.name, "a double quote is stray or not closed", _QUOTE_FIX, rows=[stray])
        return False
    if not wide:
        findings.add("error", path.name, f"cannot be read as CSV ({reason})", "save the file again as CSV UTF-8.")
        return False
    what = f"the row has {{cell}} fields, the header {width}"
    fix = "put cells that hold the separator into double quotes."
    findings.add("error", path.name, what, fix, rows=wide, cells=counts[:LISTED])
    return True


def _read_parquet(path: Path, findings: Findings, only: tuple[str, ...] | None) -> TableFile | None:
    try:
        header = list(pl.read_parquet_schema(path))
        names = header_names(header, path.name, findings)
        if names is None:
            return None
        wanted = {old: new for old, new in zip(header, names, strict=True) if new and (only is None or new in only)}
        frame = pl.read_parquet(path, columns=list(wanted)).rename(wanted)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        what = f"the file is not Parquet, or cut off ({reason[:120]})"
        findings.add("error", path.name, what, _PARQUET_FIX)
        return None
    return TableFile.of(path.name, frame, names, first_row=1)
