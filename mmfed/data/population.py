"""A population on disk: the interactions of a shop and its split as memory-mapped files, built once in a cache folder.

Everything is read, cleaned and cut in parts, so memory grows with the number of users only by a few bytes each. The
result is the same as that of ``load_table``, ``clean`` and ``split_shop`` in memory. Folders are private to the owner:
they hold what people did.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mmfed.config import DataSection, SplitSection
from mmfed.data.findings import Findings
from mmfed.data.population_build import Built, build_interactions
from mmfed.data.schema import Interactions, Shop, Split
from mmfed.data.sources.delimited import find_table
from mmfed.data.sources.items import read_items
from mmfed.data.sources.own_content import read_own_content
from mmfed.data.sources.table_parts import rows_of_parquet
from mmfed.data.split import (
    HeldOut,
    all_held_out,
    check_shares,
    describe_split,
    held_out,
    needs_given_parts,
    time_parts,
    time_span,
)
from mmfed.data.stored import InteractionWriter, check_files, open_interactions
from mmfed.errors import ExitCode, MmfedError
from mmfed.records import sha256_file, storage_faults, sync_folder

LAYOUT = 1  # changes when the meaning of the files does
LARGE_ROWS, LARGE_CSV = 2_000_000, 100_000_000  # interactions, bytes
RECORD = "population.json"
PARTS = ("train", "validation", "test")


def is_large(folder: Path) -> bool:
    """Whether a shop's interactions are better kept on disk than in memory."""
    if any(folder.glob("own_content.*")):
        return False  # it is put among the interactions in memory
    parquet, text = folder / "interactions.parquet", folder / "interactions.csv"
    if parquet.is_file():
        return (rows_of_parquet(parquet) or 0) >= LARGE_ROWS
    return text.is_file() and text.stat().st_size >= LARGE_CSV


def load_population(folder: Path, section: DataSection, cache: Path) -> Shop:
    """Read and clean a ``table`` shop, its interactions on disk.

    Args:
        cache: where populations are kept; one of other files or other cleaning is another folder.

    Raises:
        MmfedError: what ``load_table`` and ``clean`` find wrong; a full disk; damaged files of an earlier build.
    """
    findings = Findings()
    items_path, events_path = find_table(folder, "items", findings), find_table(folder, "interactions", findings)
    catalogue = None if items_path is None else read_items(items_path, folder, findings)
    if events_path is None or catalogue is None:
        findings.raise_first_error()
        raise RuntimeError("a shop that cannot be read must come with an error")
    own = read_own_content(folder, catalogue, findings) if section.own_content else None
    findings.raise_first_error()
    with storage_faults(events_path):
        source = sha256_file(events_path)
    key = {
        "layout": LAYOUT,
        "source": source,
        "items": hashlib.sha256("\n".join(catalogue.item_ids).encode()).hexdigest(),
        "cleaning": [section.repeats, section.minimum_value, section.users],
    }
    name = folder.resolve().name

    def build(temporary: Path) -> Built:
        with _parsing_faults(folder):
            return build_interactions(events_path, catalogue, section, temporary, shop=name)

    home = cache / f"{name}-{_digest(key)}"
    record = _made(home, build)
    return Shop(
        name=name,
        catalogue=catalogue,
        interactions=open_interactions(home, item_count=catalogue.size),
        notes=(*findings.notes, *record["notes"]),
        own=own,
        stored=home,
    )


def split_population(shop: Shop, section: SplitSection) -> Split:
    """``split_shop`` of a shop whose interactions are on disk; the parts are files beside them.

    Raises:
        MmfedError: as ``split_shop``; a full disk; damaged files.
    """
    if shop.stored is None:
        raise ValueError("the shop's interactions are in memory")
    check_shares(section)
    if section.kind == "given":
        raise needs_given_parts(shop)
    home = shop.stored / f"split-{_digest(section.model_dump())}"
    record = _made(home, lambda temporary: _cut(shop, section, temporary))
    ids, items = shop.interactions.user_ids, shop.interactions.item_count
    train, validation, test = (open_interactions(home / part, item_count=items, ids=ids) for part in PARTS)
    return Split(train=train, validation=validation, test=test, description=record["notes"][0])


def _cut(shop: Shop, section: SplitSection, folder: Path) -> Built:
    """Write the parts of every block of users."""
    held = held_out(shop, section) if section.cold_items or section.new_users else None
    span = None
    if section.kind == "global-time":
        ends = [(block.times.min(), block.times.max()) for block in _warm(shop, held) if len(block)]
        span = time_span(np.array(ends, dtype=np.int64).ravel())
    files = {}
    with ExitStack() as stack:
        writers = {part: stack.enter_context(InteractionWriter(folder / part, ids=False)) for part in PARTS}
        for block in _warm(shop, held):
            parts = time_parts(block, section, span)
            for number, writer in enumerate(writers.values()):
                writer.append(block.keep_rows(parts == number))
        if not sum(writer.rows for writer in writers.values()):
            raise all_held_out(shop)
        for part, writer in writers.items():
            files |= {f"{part}/{name}": entry for name, entry in writer.finish().items()}
    for part in PARTS:
        sync_folder(folder / part)
    told = describe_split(section, span)
    return Built(files, (told if held is None else f"{told}; {held.description}",))


def _warm(shop: Shop, held: HeldOut | None) -> Iterator[Interactions]:
    """Blocks of users without held-out rows."""
    for first, block in shop.interactions.blocks():
        if held is None:
            yield block
        else:
            own = HeldOut(held.items, held.users[first : first + block.user_count])
            yield block.keep_rows(~own.rows(block))


def _made(home: Path, build: Callable[[Path], Built]) -> Mapping[str, Any]:
    """The record of a folder, which is built first where it is not there; whole and durable, or not at all.

    Processes that want the same folder wait for each other on a lock that dies with its holder.
    """
    with storage_faults(home):
        home.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _lock(home.with_name(f".{home.name}.lock")):
        if home.is_dir():
            return _checked(home)
        with storage_faults(home):
            for left in home.parent.glob(f".{home.name}.part-*"):  # of a build that was killed
                shutil.rmtree(left, ignore_errors=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{home.name}.part-", dir=home.parent))
        try:
            with storage_faults(home):
                built = build(temporary)
                record = {"files": built.files, "notes": list(built.notes)}
                with open(temporary / RECORD, "x", encoding="utf-8") as file:
                    json.dump(record, file)
                    file.flush()
                    os.fsync(file.fileno())
                sync_folder(temporary)
                temporary.replace(home)
                sync_folder(home.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return record


def _checked(home: Path) -> Mapping[str, Any]:
    fix = f"delete the folder {home}; it is built again from the shop's files."
    try:
        record = json.loads((home / RECORD).read_bytes())
        files, _ = record["files"], record["notes"][:0]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MmfedError(ExitCode.STORAGE, f"{home / RECORD}: cannot be used ({error}).", fix) from None
    check_files(home, files, fix=fix)
    return record


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process at a time; the system releases it when the holder dies, however it dies."""
    with storage_faults(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _parsing_faults(folder: Path) -> Iterator[None]:
    """What the parser says of a damaged file, in the words of the reader of whole files."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        from mmfed.data.sources.table import load_table

        load_table(folder)
        raise MmfedError(
            ExitCode.DATA,
            f"{folder}: the interactions cannot be read in parts ({str(error).splitlines()[0][:120]}).",
            "set data.on_disk = never, or write the file as Parquet.",
        ) from error


def _digest(key: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:16]
