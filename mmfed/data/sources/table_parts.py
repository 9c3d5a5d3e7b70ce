"""A table file in parts of some rows, for files larger than memory; each part reads like the whole file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import polars as pl

from mmfed.data.findings import Findings
from mmfed.data.sources.delimited import TableFile, csv_head, header_names, read_csv_bytes

ROWS = 400_000
CSV_BYTES = 1 << 24


def rows_of_parquet(path: Path) -> int | None:
    """Number of records, from the footer; None where there is none to read."""
    try:
        return int(pl.scan_parquet(path).select(pl.len()).collect().item())
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        return None


def parquet_parts(path: Path, only: tuple[str, ...], findings: Findings, *, rows: int = ROWS) -> Iterator[TableFile]:
    """Parts of a Parquet file that ``rows_of_parquet`` can read.

    Raises:
        polars.exceptions.PolarsError: a part is damaged.
    """
    header = list(pl.read_parquet_schema(path))
    names = header_names(header, path.name, findings)
    if names is None:
        return
    wanted = {old: new for old, new in zip(header, names, strict=True) if new in only}
    scan = pl.scan_parquet(path).select(list(wanted)).rename(wanted)
    for start in range(0, rows_of_parquet(path) or 1, rows):  # a file without records has one part as well
        frame = scan.slice(start, rows).collect()
        yield TableFile.of(path.name, frame, names, first_row=1 + start)


def csv_parts(path: Path, only: tuple[str, ...], findings: Findings, *, size: int = CSV_BYTES) -> Iterator[TableFile]:
    """Parts of a CSV file of about ``size`` bytes, cut at ends of lines that are not inside quotes.

    Raises:
        polars.exceptions.PolarsError: the rows do not fit the header, or are not UTF-8.
    """
    head = csv_head(path, findings)
    if head is None:
        return
    separator, header, line_end = head
    names = header_names(header, path.name, findings)
    if names is None:
        return
    wanted = [i for i, name in enumerate(names) if name and name in only]
    first = 1  # the row that a part begins with, as a spreadsheet numbers it
    with open(path, "rb") as file:
        for text in _whole_lines(file, line_end.encode(), size):
            frame = read_csv_bytes(io.BytesIO(text), separator, line_end, len(names), wanted)
            frame = frame.rename({f"column_{i + 1}": names[i] for i in wanted})
            skipped = int(first == 1)  # the header
            yield TableFile.of(path.name, frame.slice(skipped), names, first_row=first + skipped)
            first += frame.height


def _whole_lines(file: IO[bytes], line_end: bytes, size: int) -> Iterator[bytes]:
    """The file in blocks that end with whole rows: a line end counts after an even number of quotes."""
    rest = b""
    while block := file.read(size):
        text = rest + block
        cut = len(text)
        while (cut := text.rfind(line_end, 0, cut)) >= 0 and text.count(b'"', 0, cut) % 2:
            pass
        if cut < 0:
            rest = text
            continue
        yield text[: cut + 1]
        rest = text[cut + 1 :]
    if rest:
        yield rest
