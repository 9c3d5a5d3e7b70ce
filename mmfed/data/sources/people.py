"""The file of people in a shop folder, docs/own-content.md: ``people`` (CSV or Parquet), a row per user."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from mmfed.data.findings import Findings
from mmfed.data.people import MISSING, People, nobody
from mmfed.data.sources.answers import answers, proposal
from mmfed.data.sources.columns import ColumnReader
from mmfed.data.sources.delimited import find_table, read_table_file
from mmfed.person_attributes import PersonAttribute

STEM = "people"


def read_people(folder: Path, attributes: tuple[PersonAttribute, ...], findings: Findings) -> People:
    """What people say about themselves, every fault in ``findings``; nobody where there is no file.

    No finding quotes a cell: where a device tells its faults, this stays private.
    """
    reader = _reader(folder, ("user", *(one.name for one in attributes)), findings)
    if reader is None:
        return nobody(attributes)
    users = reader.ids("user")
    empty = users.is_null()
    reader.report("warning", "user", empty, "the cell is empty; the row is left out", "fill it in, or delete the row.")
    twice = users.is_not_null() & ~users.is_first_distinct()
    reader.report(
        "warning", "user", twice, "the user stands there twice; the first row counts", "keep one of the rows."
    )
    columns = [_answered(reader, one) for one in attributes]
    keep = (users.is_not_null() & ~twice).to_numpy()
    return People(users.filter(keep).to_list(), attributes, np.stack(columns, axis=1)[keep])


def proposed_people(folder: Path) -> dict[str, str]:
    """What could be listed of each column of the file, to be shown where the file lies; see ``proposal``."""
    reader = _reader(folder, None, Findings())
    names = [] if reader is None else [name for name in reader.names if name != "user"]
    return {name: proposal(reader.text(name)) for name in names} if reader is not None else {}


def _reader(folder: Path, wanted: tuple[str, ...] | None, findings: Findings) -> ColumnReader | None:
    """The file with the ``wanted`` columns, all where None; None where there is no file or a column lacks."""
    if not any((folder / f"{STEM}{ending}").is_file() for ending in (".csv", ".parquet")):
        return None
    path = find_table(folder, STEM, findings)
    table = None if path is None else read_table_file(path, findings, wanted)
    if table is None:
        return None
    missing = [name for name in wanted or () if name not in table.frame.columns]
    for name in missing:  # what stands in the first row is not shown: without a header it is somebody
        where = "" if name == "user" else f", or take {name} out of data.people"
        fix = f"add a column with the header {name}{where}."
        findings.add("error", table.name, f"there is no column {name}", fix, rows=[1])
    return None if missing else ColumnReader(table, findings, quoting=False)


def _answered(reader: ColumnReader, attribute: PersonAttribute) -> np.ndarray:
    """[rows] which of the listed answers; one that is not listed counts as none, with a warning."""
    column = reader.text(attribute.name)
    found = answers(column, attribute)
    unlisted = pl.Series(found == MISSING) & column.is_not_null()
    if attribute.bands:
        what, fix = "the cell is not a number; it counts as missing", "write a number with a point, or empty the cell."
    else:
        what = f"the value is not listed in data.people.{attribute.name}; it counts as missing"
        fix = "list it there, or empty the cell."
    reader.report("warning", attribute.name, unlisted, what, fix)
    return found
