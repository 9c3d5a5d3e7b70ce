"""The demo shop as files, at any size: the table format that ``sources.table`` reads."""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from mmfed.data.demo import check_users
from mmfed.data.demo_catalogue import ASSETS, ITEMS_FILE, MEDIA_FOLDER, ItemRow, demo_catalogue, item_rows
from mmfed.data.demo_shoppers import Rows, Shoppers
from mmfed.data.schema import Action, Catalogue
from mmfed.errors import ExitCode, MmfedError
from mmfed.records import sync_folder

CHUNK = 4096
INTERACTIONS_FILE = "interactions.parquet"
ROW_GROUP = 1_000_000
SCHEMA = {"user": pl.String, "item": pl.String, "time": pl.Int64, "action": pl.String, "value": pl.Float32}


def synthesise(
    folder: Path,
    *,
    users: int,
    seed: int,
    items: int | None = None,
    progress: Callable[[int], None] | None = None,
    chunk: int = CHUNK,
) -> None:
    """Write a demo shop of any size as a folder: ``items.csv``, ``media/``, ``interactions.parquet``, licences.

    Memory does not grow with ``users``. The folder appears under its name only when complete. The same users, items
    and seed give the same bytes; the first n shoppers of a larger shop with as many items are the same n.

    Args:
        folder: must not exist, or be empty.
        items: size of the catalogue, None for the bundled one.
        progress: called with the number of shoppers written so far.
        chunk: shoppers computed at a time; changes memory, never the bytes.

    Raises:
        MmfedError: the folder is in use, a size is out of range, or the disk refuses.
    """
    check_users(users)
    rows = item_rows(items)
    with _write_faults(folder):
        if folder.exists() and not folder.is_dir():
            raise MmfedError(ExitCode.DATA, f"{folder}: is a file.", "choose a new folder.")
        if folder.exists() and any(folder.iterdir()):
            raise MmfedError(
                ExitCode.DATA, f"{folder}: exists and is not empty.", "choose a new folder, or remove that one."
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with _write_faults(folder):
            _write_catalogue(partial, rows)
            _write_interactions(partial / INTERACTIONS_FILE, demo_catalogue(partial), users, seed, chunk, progress)
            _sync_files(partial)
            partial.chmod(0o755)  # mkdtemp's 0700 would keep other accounts out of a shop that is no secret
            partial.replace(folder)
            sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def _write_faults(folder: Path) -> Iterator[None]:
    """Refusals of the disk, which polars reports in its own words, as faults with a mend."""
    try:
        yield
    except (OSError, pl.exceptions.ComputeError) as error:
        raise MmfedError(
            ExitCode.STORAGE,
            f"{folder}: cannot be written ({error}).",
            "free space or choose a writable folder, then run again; nothing was left behind.",
        ) from error


def _write_catalogue(folder: Path, rows: list[ItemRow]) -> None:
    (folder / MEDIA_FOLDER).mkdir()
    for picture in sorted({row["image"] for row in rows}):
        shutil.copyfile(ASSETS / MEDIA_FOLDER / picture, folder / MEDIA_FOLDER / picture)
    for name in ("NOTICE", "LICENSE.clothing", "LICENSE.grocery"):
        shutil.copyfile(ASSETS / name, folder / name)
    with open(folder / ITEMS_FILE, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_interactions(
    path: Path, catalogue: Catalogue, users: int, seed: int, chunk: int, progress: Callable[[int], None] | None
) -> None:
    shoppers = Shoppers(catalogue, seed)
    item_ids = pl.Series(catalogue.item_ids, dtype=pl.String)
    actions = pl.Series([action.name.lower() for action in Action], dtype=pl.String)

    def frames(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        del predicate, n_rows, batch_size  # polars offers them to a source; a sink of everything needs none
        for first in range(0, users, chunk):
            last = min(first + chunk, users)
            frame = _frame(shoppers.rows(first, last), item_ids, actions)
            yield frame if with_columns is None else frame.select(with_columns)
            if progress is not None:
                progress(last)

    source = register_io_source(frames, schema=SCHEMA)
    source.sink_parquet(path, compression="zstd", row_group_size=ROW_GROUP, maintain_order=True)


def _frame(rows: Rows, item_ids: pl.Series, actions: pl.Series) -> pl.DataFrame:
    number = pl.Series(rows.shoppers).cast(pl.String).str.zfill(7)
    return pl.DataFrame(
        {
            "user": pl.select(pl.lit("shopper-") + number).to_series(),
            "item": item_ids.gather(rows.items),
            "time": rows.times,
            "action": actions.gather(rows.actions),
            "value": pl.Series(rows.values).fill_nan(None),
        },
        schema=SCHEMA,
    )


def _sync_files(folder: Path) -> None:
    """Make the tables durable. The pictures are copies of bundled files, and hundreds of flushes would cost seconds."""
    for name in (ITEMS_FILE, INTERACTIONS_FILE):
        with open(folder / name, "rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)
