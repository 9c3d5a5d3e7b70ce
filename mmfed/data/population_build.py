"""From a shop's interactions file to interactions grouped by user on disk, in two passes of bounded memory.

The first pass checks the rows part by part and notes them as plain columns with users numbered in the order they come;
the second takes blocks of users, puts each one's rows in order of time, cleans them and appends them. Rows that are not
grouped by user are brought to their block in between, by a counting sort on disk.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import polars as pl

from mmfed.config import DataSection
from mmfed.data.findings import Findings
from mmfed.data.preprocess import NOTHING_LEFT, NOTHING_LEFT_FIX, clean_interactions, cleaning_notes
from mmfed.data.schema import BLOCK, Catalogue, group_by_user
from mmfed.data.sources.delimited import TableFile, require_columns
from mmfed.data.sources.encode import codes
from mmfed.data.sources.table import (
    BACK_IN_TIME,
    INTERACTION_COLUMNS,
    NO_ROW,
    read_events,
    rows_back_in_time,
    warn_of_a_single_user,
)
from mmfed.data.sources.table_parts import csv_parts, parquet_parts
from mmfed.data.stored import InteractionWriter, Record
from mmfed.errors import ExitCode, MmfedError
from mmfed.types import IntArray

_RAW = {"users": "<i4", "items": "<i4", "times": "<i8", "actions": "<i1", "values": "<f4"}


@dataclass(frozen=True)
class Built:
    """What a build leaves.

    Attributes:
        files: bytes and SHA-256 by name.
        notes: one line each.
    """

    files: Record
    notes: tuple[str, ...]


class _Noted(NamedTuple):
    """The first pass: names of the users, [users] their rows, and whether the rows came user by user."""

    names: pl.Series
    counts: IntArray
    grouped: bool


def build_interactions(
    source: Path, catalogue: Catalogue, section: DataSection, folder: Path, *, shop: str, block: int = BLOCK
) -> Built:
    """Write cleaned interactions of a whole file into ``folder``.

    Args:
        block: rows in memory at a time, about.

    Raises:
        MmfedError: the first fault of the file, or nothing is left.
        OSError: the disk refuses.
    """
    findings = Findings()
    raw = folder / "raw"
    noted = _note(source, catalogue, raw, findings)
    findings.raise_first_error()
    met = len(noted.names)
    users = min(section.users or met, met)
    starts = np.concatenate([[0], np.cumsum(noted.counts)]).astype(np.int64)
    edges = _edges(starts, block, users)
    if not noted.grouped:
        raw = _by_block(raw, folder / "blocks", starts, edges, block)
    dropped, back = np.zeros(3, dtype=np.int64), 0
    with InteractionWriter(folder, ids=True) as writer:
        for first, last in itertools.pairwise(edges.tolist()):
            columns = {name: _read(raw, name, int(starts[first]), int(starts[last])) for name in _RAW}
            columns["users"] = columns["users"] - first
            back += len(rows_back_in_time(columns["users"], columns["times"]))
            if first >= users:
                continue
            names = noted.names[first:last].to_list()
            found = group_by_user(user_ids=names, item_count=catalogue.size, **columns)
            cleaned = clean_interactions(found, None, repeats=section.repeats, minimum_value=section.minimum_value)
            dropped += cleaned.dropped
            writer.append(cleaned.interactions)
        shutil.rmtree(raw)
        if not writer.rows:
            raise MmfedError(ExitCode.DATA, f"{shop}: {NOTHING_LEFT}.", NOTHING_LEFT_FIX)
        files = writer.finish()
    if back:
        findings.add("warning", source.name, *BACK_IN_TIME, column="time", rows=range(back))
    warn_of_a_single_user(source.name, met, findings)
    notes = list(findings.notes)
    if users < met:
        notes.append(f"only the first {users} of {met} users were kept (data.users)")
    rows, repeated, empty = dropped.tolist()
    notes += cleaning_notes((rows, repeated, empty), repeats=section.repeats, minimum_value=section.minimum_value)
    return Built(files, tuple(notes))


def _note(source: Path, catalogue: Catalogue, raw: Path, findings: Findings) -> _Noted:
    """Check all rows and append them to the raw columns."""
    raw.mkdir()
    known = pl.Series(catalogue.item_ids, dtype=pl.String)
    numbers, counts = _Numbers(), np.zeros(0, dtype=np.int64)
    grouped, last, any_row, any_part = True, -1, False, False
    with _columns(raw) as files:
        for table in _parts(source, findings):
            if not any_part and not require_columns(table, INTERACTION_COLUMNS[:3], findings):
                break
            any_part, any_row = True, any_row or table.frame.height > 0
            if not table.frame.height:
                continue
            events = read_events(table, known, findings)
            if events is None or not len(events.users):
                continue
            users = numbers.of(events.users)
            columns = {
                "users": users,
                "items": events.items,
                "times": events.times,
                "actions": events.actions,
                "values": events.values,
            }
            for name, kind in _RAW.items():
                files[name].write(columns[name].astype(kind, copy=False).tobytes())
            counts = np.concatenate([counts, np.zeros(len(numbers) - len(counts), dtype=np.int64)])
            counts += np.bincount(users, minlength=len(counts))
            grouped, last = grouped and bool((np.diff(users, prepend=last) >= 0).all()), int(users[-1])
    if any_part and not any_row:
        findings.add("error", source.name, *NO_ROW)
    return _Noted(numbers.names, counts, grouped)


def _parts(source: Path, findings: Findings) -> Iterator[TableFile]:
    if source.stat().st_size == 0:
        findings.add("error", source.name, "the file is empty", "write a header and at least one row.")
        return
    parts = parquet_parts if source.suffix == ".parquet" else csv_parts
    yield from parts(source, INTERACTION_COLUMNS, findings)


class _Numbers:
    """Numbers of user ids, in the order they are first met."""

    def __init__(self) -> None:
        self._met: list[pl.Series] = []
        self._known = pl.DataFrame(schema={"id": pl.String, "number": pl.Int32})

    def __len__(self) -> int:
        return self._known.height

    @property
    def names(self) -> pl.Series:
        """All ids met so far, by number."""
        return pl.concat(self._met) if self._met else pl.Series([], dtype=pl.String)

    def of(self, users: pl.Series) -> IntArray:
        """[rows] int32 number of every user."""
        distinct = users.unique(maintain_order=True).alias("id")
        asked = pl.DataFrame({"id": distinct}).with_row_index("place")
        found = asked.join(self._known, on="id", how="left").sort("place")["number"]
        # Copied: a filtered string column keeps all strings alive that it was filtered from.
        new = pl.Series(distinct.filter(found.is_null()).to_list(), dtype=pl.String)
        fresh = pl.Series(np.arange(len(self), len(self) + len(new), dtype=np.int32))
        numbers = found.fill_null(-1).to_numpy().copy()
        numbers[numbers < 0] = fresh.to_numpy()
        self._known = pl.concat([self._known, pl.DataFrame({"id": new, "number": fresh})])
        self._met.append(new)
        return numbers[codes(users, distinct)]


def _edges(starts: IntArray, block: int, users: int) -> IntArray:
    """Users at which blocks of about ``block`` rows begin, user ``users`` among them, and the end."""
    inner = np.searchsorted(starts, np.arange(block, int(starts[-1]), block), side="left")
    return np.unique(np.concatenate([[0, users], inner, [len(starts) - 1]])).astype(np.int64)


def _by_block(raw: Path, target: Path, starts: IntArray, edges: IntArray, block: int) -> Path:
    """The raw columns with every block of users in one piece, rows in the order of the file inside it."""
    target.mkdir()
    rows = int(starts[-1])
    places = starts[edges[:-1]].copy()
    with _columns(target) as files:
        for start in range(0, rows, block):
            columns = {name: _read(raw, name, start, min(start + block, rows)) for name in _RAW}
            owner = np.searchsorted(edges, columns["users"], side="right") - 1
            order = np.argsort(owner, kind="stable")
            counts = np.bincount(owner, minlength=len(places))
            ends = np.cumsum(counts)
            for number in np.flatnonzero(counts).tolist():
                chosen = order[ends[number] - counts[number] : ends[number]]
                for name, kind in _RAW.items():
                    files[name].seek(int(places[number]) * np.dtype(kind).itemsize)
                    files[name].write(columns[name][chosen].tobytes())
            places += counts
    shutil.rmtree(raw)
    return target


@contextmanager
def _columns(folder: Path) -> Iterator[dict[str, IO[bytes]]]:
    """New raw columns to write to, all closed in the end even where the disk refuses the last bytes of one."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(open(folder / name, "wb")) for name in _RAW}


def _read(folder: Path, name: str, first: int, last: int) -> np.ndarray:
    """Rows ``first`` to ``last - 1`` of a raw column, in memory."""
    kind = np.dtype(_RAW[name])
    found = np.fromfile(folder / name, dtype=kind, count=last - first, offset=first * kind.itemsize)
    if len(found) != last - first:
        raise OSError(f"{folder / name} is shorter than what was written to it")
    return found
