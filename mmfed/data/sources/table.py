"""The shop's own format, docs/data.md: ``interactions`` and ``items`` (CSV or Parquet) and a ``media/`` folder.

Where there is an ``own_content`` file it is read along, and ``people`` where it is asked for (docs/own-content.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from mmfed.data.findings import Findings
from mmfed.data.schema import Catalogue, Interactions, Shop, group_by_user
from mmfed.data.sources.columns import ColumnReader
from mmfed.data.sources.delimited import TableFile, find_table, read_table_file, require_columns
from mmfed.data.sources.encode import codes
from mmfed.data.sources.items import read_items
from mmfed.data.sources.own_content import read_own_content
from mmfed.data.sources.people import read_people
from mmfed.person_attributes import PersonAttribute
from mmfed.types import FloatArray, IntArray

INTERACTION_COLUMNS = ("user", "item", "time", "action", "value")
NO_ROW = ("there is a header but no row", "add the interactions of the shop.")
BACK_IN_TIME = (
    "the time is before that of the user's row above; rows are put in order of time",
    "nothing to do, unless the file's order was meant.",
)


def load_table(
    folder: Path,
    *,
    interactions_optional: bool = False,
    own_content: bool = True,
    people: tuple[PersonAttribute, ...] = (),
) -> Shop:
    """Read a shop's own files.

    Args:
        interactions_optional: without an interactions file the shop has no users instead of an error.
        own_content: whether the file of people's own content is read.
        people: what is read of the file of people; nothing leaves it unread.

    Raises:
        MmfedError: the first error that ``check_shop`` would report, in the same words.
    """
    findings = Findings()
    if interactions_optional and not any(folder.glob("interactions.*")):
        shop = read_catalogue(folder, findings)
    else:
        shop = read_table(folder, findings, own_content=own_content, people=people)
    findings.raise_first_error()
    if shop is None:
        raise RuntimeError("a shop that cannot be read must come with an error")
    return shop


def read_table(
    folder: Path, findings: Findings, *, own_content: bool = True, people: tuple[PersonAttribute, ...] = ()
) -> Shop | None:
    """Read as much as can be read and put every fault into ``findings``; None where a file cannot be used at all."""
    items_path = find_table(folder, "items", findings)
    events_path = find_table(folder, "interactions", findings)
    catalogue = None if items_path is None else read_items(items_path, folder, findings)
    events = None if events_path is None else read_table_file(events_path, findings, INTERACTION_COLUMNS)
    if events is None or not require_columns(events, INTERACTION_COLUMNS[:3], findings):
        return None
    interactions = _interactions(events, catalogue, findings)
    if interactions is None or catalogue is None:
        return None
    own = read_own_content(folder, catalogue, findings) if own_content else None
    answered = read_people(folder, people, findings) if people else None
    return Shop(
        name=folder.resolve().name,
        catalogue=catalogue,
        interactions=interactions,
        notes=tuple(findings.notes),
        own=own,
        people=answered,
    )


def read_catalogue(folder: Path, findings: Findings) -> Shop | None:
    """The public side of a shop alone; no users."""
    path = find_table(folder, "items", findings)
    catalogue = None if path is None else read_items(path, folder, findings)
    if catalogue is None:
        return None
    nobody = np.zeros(0, dtype=np.int64)
    interactions = group_by_user(
        user_ids=[],
        users=nobody,
        items=nobody,
        times=nobody,
        actions=nobody,
        values=np.zeros(0, dtype=np.float32),
        item_count=catalogue.size,
    )
    notes = (*findings.notes, "no interactions file: the catalogue only")
    return Shop(name=folder.resolve().name, catalogue=catalogue, interactions=interactions, notes=notes)


@dataclass(frozen=True, eq=False)
class Events:
    """Checked rows of an interactions file, in the order of the file.

    Attributes:
        users: [rows] user ids; every column but ``reader`` holds the good rows only.
        items: [rows] int32 index into the catalogue.
        times, actions, values: as in ``Interactions``.
        places: [rows] place of each good row among all rows that were read.
        reader: for findings about these rows.
    """

    users: pl.Series
    items: IntArray
    times: IntArray
    actions: IntArray
    values: FloatArray
    places: IntArray
    reader: ColumnReader


def read_events(table: TableFile, item_ids: pl.Series | None, findings: Findings) -> Events | None:
    """Check the rows of an interactions file, or of a part of it.

    Args:
        item_ids: of the catalogue; None where it cannot be used, which leaves the other columns to check.
    """
    reader = ColumnReader(table, findings)
    users, items = reader.ids("user"), reader.ids("item")
    times = reader.times("time")
    values = reader.numbers("value")
    actions = reader.actions("action", values)
    for name, column in (("user", users), ("item", items), ("time", reader.text("time"))):
        what = "the cell is empty; the row is left out"
        reader.report("warning", name, column.is_null(), what, "fill it in, or delete the row.")
    if item_ids is None:
        return None
    item_index = codes(items, item_ids)
    unknown = pl.Series(item_index < 0) & items.is_not_null()
    fix = "add the item there, or delete the row."
    if unknown.any() and (codes(items.filter(unknown).str.replace(r"\.0$", ""), item_ids) >= 0).any():
        fix = "write the ids as the items file does: without .0 at the end."
    reader.report("error", "item", unknown, "{cell} is not in the items file", fix, items)
    keep = (users.is_not_null() & times.is_not_null() & pl.Series(item_index >= 0)).to_numpy()
    return Events(
        users=users.filter(keep),
        items=item_index[keep],
        times=times.filter(keep).to_numpy(),
        actions=actions.filter(keep).to_numpy(),
        values=values.filter(keep).cast(pl.Float32).fill_null(float("nan")).to_numpy(),
        places=np.flatnonzero(keep),
        reader=reader,
    )


def warn_of_a_single_user(file: str, users: int, findings: Findings) -> None:
    """One person alone is a warning."""
    if users == 1:
        fix = "give the interactions of all customers; one person alone can neither be hidden nor learned from."
        findings.add("warning", file, "there is a single user", fix, column="user")


def _interactions(table: TableFile, catalogue: Catalogue | None, findings: Findings) -> Interactions | None:
    if table.frame.height == 0:
        findings.add("error", table.name, *NO_ROW)
        return None
    known = None if catalogue is None else pl.Series(catalogue.item_ids, dtype=pl.String)
    events = read_events(table, known, findings)
    if events is None or catalogue is None:
        return None
    user_names = events.users.unique(maintain_order=True)
    users = codes(events.users, user_names)
    interactions = group_by_user(
        user_ids=user_names.to_list(),
        users=users,
        items=events.items,
        times=events.times,
        actions=events.actions,
        values=events.values,
        item_count=catalogue.size,
    )
    _warn_of_order(events, users, table.frame.height)
    warn_of_a_single_user(table.name, interactions.user_count, findings)
    return interactions


def _warn_of_order(events: Events, users: IntArray, rows: int) -> None:
    """Warn of rows that are earlier than the row before them of the same user."""
    back = rows_back_in_time(users, events.times)
    if len(back):
        bad = np.zeros(rows, dtype=bool)
        bad[events.places[back]] = True
        events.reader.report("warning", "time", pl.Series(bad), *BACK_IN_TIME)


def rows_back_in_time(users: IntArray, times: IntArray) -> IntArray:
    """Places of the rows that are earlier than the row before them of the same user."""
    order = np.argsort(users, kind="stable")
    back = (np.diff(times[order]) < 0) & (np.diff(users[order]) == 0)
    return order[1:][back]
