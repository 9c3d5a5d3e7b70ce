"""Checked conversions of one column: bad cells become findings and missing values, good ones arrays. All vectorised."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable

import polars as pl

from mmfed.data.findings import LISTED, Findings, Severity
from mmfed.data.schema import Action
from mmfed.data.sources.delimited import TableFile

LONGEST_ID = 256
EARLIEST_TIME = 788918400  # 1995-01-01: nobody sold over the web before
_YEAR = 366 * 86400
_TIME_FIX = "write Unix seconds (1704067200) or ISO 8601 (2024-01-01T00:00:00Z)."


class ColumnReader:
    """Reads the columns of one table file into checked series of its length; null is missing.

    Args:
        quoting: whether findings show the cells at fault; a device's faults travel to the coordinator.
    """

    def __init__(self, table: TableFile, findings: Findings, *, quoting: bool = True) -> None:
        self._table = table
        self._findings = findings
        self._quoting = quoting

    def report(
        self,
        severity: Severity,
        column: str | None,
        bad: pl.Series,
        what: str,
        fix: str,
        shown: pl.Series | None = None,
    ) -> None:
        """Add a finding for every row where ``bad`` is true; ``shown`` [records] gives ``{cell}``."""
        rows = self._table.rows(bad)
        if rows:
            if not self._quoting:
                what, shown = what.replace("the id {cell}", "the id").replace("{cell}", "the cell"), None
            cells = [] if shown is None else shown.filter(bad).head(LISTED).to_list()
            self._findings.add(severity, self._table.name, what, fix, column=column, rows=rows, cells=cells)

    def has(self, name: str) -> bool:
        """Whether the file has this column."""
        return name in self._table.frame.columns

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that were read."""
        return tuple(self._table.frame.columns)

    def text(self, name: str) -> pl.Series:
        """Trimmed strings; empty is missing. A column that is absent is missing throughout."""
        if not self.has(name):
            return pl.Series(name, [None], dtype=pl.String).new_from_index(0, self._table.frame.height)
        column = self._table.frame[name]
        if isinstance(column.dtype, pl.List):
            column = column.cast(pl.List(pl.String)).list.join("|")
        elif column.dtype in (pl.Binary, pl.Object) or column.dtype.is_nested():
            whole = pl.repeat(True, min(1, len(column)), eager=True)
            self.report("error", name, whole, f"the column holds {column.dtype}, not text", "write it as strings.")
            return pl.Series(name, [None], dtype=pl.String).new_from_index(0, self._table.frame.height)
        elif column.dtype.is_float():
            # A table library turns whole-number ids with gaps into floats: 17.0 is 17.
            whole_number = column == column.round(0)
            text = column.cast(pl.String)
            column = pl.select(pl.when(whole_number).then(text.str.replace(r"\.0$", "")).otherwise(text)).to_series()
            column = column.replace("NaN", None)
        column = column.cast(pl.String).str.strip_chars()
        return column.set(column == "", None).rename(name)

    def ids(self, name: str) -> pl.Series:
        """Ids as strings, at most 256 characters, no control characters, no whole numbers beyond 64 bits."""
        column = self.text(name)
        long = column.str.len_chars() > LONGEST_ID
        self.report("error", name, long, f"the id is longer than {LONGEST_ID} characters", "shorten it.")
        control = column.str.contains(r"[\x00-\x1f\x7f]")
        self.report("error", name, control, "the id {cell} holds control characters", "remove them.", column)
        digits = column.str.contains(r"^\d{19,}$") & ~long
        if digits.any():
            significant = column.str.strip_chars_start("0")
            over = (
                digits
                & (significant.str.len_chars() >= 19)
                & ((significant.str.len_chars() > 19) | (significant > str(2**63 - 1)))
            )
            fix = "shorten it, or put a letter in front so that no program rounds it."
            self.report("error", name, over, "the id {cell} is a whole number beyond 64 bits", fix, column)
        if self.has(name) and self._table.frame[name].dtype.is_float():
            rounded = self._table.frame[name].abs() > 2**53
            fix = "write the column as integers or strings."
            self.report("error", name, rounded, "the id {cell} is a rounded floating point number", fix, column)
        return column

    def numbers(self, name: str, *, lowest: float | None = None, missing_is: str = "leave the cell empty") -> pl.Series:
        """Finite Float64 numbers, at least ``lowest``; an empty cell is missing."""
        column = self.text(name) if not self.has(name) or not self._table.frame[name].dtype.is_numeric() else None
        shown = self._table.frame[name] if column is None else column
        values = shown.cast(pl.Float64, strict=False)
        unread = values.is_null() & shown.is_not_null()
        fix = f"write a number with a point (12.50), or {missing_is}."
        self.report("error", name, unread, "{cell} is not a number", fix, shown)
        infinite = values.is_nan() | values.is_infinite()
        self.report("error", name, infinite, "{cell} is not a finite number", fix, shown)
        good = values.is_not_null() & ~infinite
        if lowest is not None:
            low = (values < lowest) & good
            self.report("error", name, low, f"{{cell}} is below {lowest:g}", f"write {lowest:g} or more.", shown)
            good &= ~low
        return values.set(~good, None)

    def times(self, name: str, *, now: Callable[[], float] = time.time) -> pl.Series:
        """Int64 seconds since 1970 from Unix seconds, ISO 8601 or Parquet's own date types; no zone means UTC."""
        column = self._table.frame[name]
        if column.dtype.is_temporal() and column.dtype in (pl.Date, pl.Datetime):
            shown, seconds = column, column.cast(pl.Datetime("us")).dt.epoch("s").cast(pl.Float64)
        elif column.dtype.is_numeric():
            shown, seconds = column, column.cast(pl.Float64)
        else:
            shown = self.text(name)
            seconds = shown.cast(pl.Float64, strict=False)
            unread = seconds.is_null() & shown.is_not_null()
            if unread.any():
                seconds = pl.select(pl.when(unread).then(iso_seconds(shown)).otherwise(seconds)).to_series()
        unread = (seconds.is_null() | seconds.is_nan() | seconds.is_infinite()) & shown.is_not_null()
        self.report("error", name, unread, "{cell} is not a time", _TIME_FIX, shown)
        milliseconds = seconds.is_between(EARLIEST_TIME * 1000, (now() + _YEAR) * 1000) & ~unread
        fix = "divide by 1000: times are in seconds."
        self.report("error", name, milliseconds, "{cell} looks like milliseconds", fix, shown)
        late = (seconds > now() + _YEAR) & ~unread & ~milliseconds
        self.report("error", name, late, "{cell} is more than a year ahead", _TIME_FIX, shown)
        early = (seconds < EARLIEST_TIME) & ~unread
        self.report("error", name, early, "{cell} is before 1995", _TIME_FIX, shown)
        return seconds.set(unread | milliseconds | late | early, None).floor().cast(pl.Int64)

    def actions(self, name: str, values: pl.Series) -> pl.Series:
        """Int8 ``Action``; where there is none, ``rate`` for a row with a value and ``view`` without."""
        default = pl.select(
            pl.when(values.is_not_null()).then(int(Action.RATE)).otherwise(int(Action.VIEW)).cast(pl.Int8)
        ).to_series()
        if not self.has(name):
            return default
        shown = self.text(name)
        names = [action.name.lower() for action in Action]
        codes = shown.str.to_lowercase().cast(pl.Enum(names), strict=False).to_physical().cast(pl.Int8)
        unknown = codes.is_null() & shown.is_not_null()
        if unknown.any():
            first = str(shown.filter(unknown)[0]).lower()
            close = difflib.get_close_matches(first, names, n=1)
            fix = f"write one of {', '.join(names)}" + (f" ({close[0]}?)." if close else ".")
            self.report("error", name, unknown, "{cell} is not an action", fix, shown)
        return codes.fill_null(default)


def iso_seconds(text: pl.Series) -> pl.Series:
    """Seconds since 1970 (Float64) of ISO 8601 dates and times, null where they are none; no zone means UTC."""
    zone = r"(?:[Zz]|\s?UTC|([+-])(\d{2}):?(\d{2})?)$"
    clock = pl.col("t").str.contains(r"\d{2}:\d{2}")  # a date alone has no zone, and "-02" there is a day
    bare = (
        pl.when(clock)
        .then(pl.col("t").str.replace(zone, ""))
        .otherwise(pl.col("t"))
        .str.replace(r"[Tt]", " ")
        .str.strip_chars()
    )
    sign = pl.when(pl.col("t").str.extract(zone, 1) == "-").then(-1).otherwise(1)
    hours = pl.col("t").str.extract(zone, 2).cast(pl.Int64, strict=False).fill_null(0)
    minutes = pl.col("t").str.extract(zone, 3).cast(pl.Int64, strict=False).fill_null(0)
    offset = pl.when(clock).then(sign * (hours * 3600 + minutes * 60)).otherwise(0)
    parsed = pl.coalesce(
        bare.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us"),
        bare.str.to_datetime("%Y-%m-%d %H:%M", strict=False, time_unit="us"),
        bare.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")),
    )
    return pl.DataFrame({"t": text}).select(parsed.dt.epoch("us") / 1_000_000 - offset).to_series()
