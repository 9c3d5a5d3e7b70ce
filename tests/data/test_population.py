"""A population on disk is the shop as it is in memory, and says what is wrong with it in the same words."""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmfed.config import DataSection, build_config
from mmfed.data import population, population_build
from mmfed.data.findings import Findings
from mmfed.data.load import load_shop, load_split
from mmfed.data.schema import Interactions, Shop
from mmfed.data.sources.delimited import read_table_file
from mmfed.data.sources.table_parts import csv_parts, parquet_parts
from mmfed.data.stored import StoredIds
from mmfed.errors import ExitCode, MmfedError
from mmfed.rng import user_key

HEADER = ["user", "item", "time", "action", "value", "remark"]
ITEMS, DAY = 12, 86_400


def rows_of(users: int, *, grouped: bool) -> list[list[object]]:
    generator = np.random.default_rng(users)
    rows: list[list[object]] = []
    for user in range(users):
        for _ in range(int(generator.integers(1, 9))):
            time, value = 1_700_000_000 + int(generator.integers(0, 30)) * DAY, int(generator.integers(1, 6))
            remark = 'said "no",\nthen "yes"' if value == 2 else ""
            rows.append([f"ü{user}", f"i{generator.integers(ITEMS)}", time, "rate", value, remark])
    if not grouped:
        rows = [rows[place] for place in generator.permutation(len(rows)).tolist()]
    rows[3][0] = rows[7][2] = ""  # empty cells: the rows are left out
    return rows


def write(folder: Path, rows: list[list[object]], kind: str = "csv") -> Path:
    folder.mkdir(exist_ok=True)
    with open(folder / "items.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["item", "title", "price"], *([f"i{i}", f"thing {i}", 2 + i] for i in range(ITEMS))]
        )
    if kind == "csv":
        with open(folder / "interactions.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([HEADER, *rows])
    else:
        columns = list(zip(*rows, strict=True))
        frame = pl.DataFrame({name: [str(cell) for cell in columns[i]] for i, name in enumerate(HEADER)})
        frame.with_columns(pl.col("value").cast(pl.Float64)).write_parquet(folder / "interactions.parquet")
    return folder


def section(folder: Path, *more: str, on_disk: str = "always") -> DataSection:
    return build_config({}, ["data.source=table", f"data.path={folder}", f"data.on_disk={on_disk}", *more]).data


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts and blocks of a few rows, so that every boundary is met."""
    monkeypatch.setattr(population_build, "parquet_parts", partial(parquet_parts, rows=7))
    monkeypatch.setattr(population_build, "csv_parts", partial(csv_parts, size=150))
    monkeypatch.setattr(population, "build_interactions", partial(population_build.build_interactions, block=11))
    whole = Interactions.blocks
    monkeypatch.setattr(Interactions, "blocks", lambda self, rows=13: whole(self, rows))


def on_disk(folder: Path, cache: Path, *more: str) -> Shop:
    return load_shop(section(folder, *more), seed=0, cache=cache)


def in_memory(folder: Path, *more: str) -> Shop:
    return load_shop(section(folder, *more, on_disk="never"), seed=0, cache=None)


def assert_same(one: Interactions, other: Interactions) -> None:
    assert list(one.user_ids) == list(other.user_ids)
    for name in ("indptr", "items", "times", "actions", "values"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        assert getattr(one, name).dtype == getattr(other, name).dtype


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize(
    "more",
    [
        [],
        ["data.repeats=last", "data.minimum_value=3", "data.split.kind=ratio"],
        ["data.users=25", "data.repeats=all", "data.split.kind=global-time"],
        ["data.split.cold_items=0.2", "data.split.new_users=0.2", "data.split.kind=global-time"],
    ],
)
def test_same_as_in_memory(tmp_path: Path, kind: str, grouped: bool, more: list[str]) -> None:
    folder = write(tmp_path / "shop", rows_of(40, grouped=grouped), kind)
    disk, memory = on_disk(folder, tmp_path / "cache", *more), in_memory(folder, *more)
    assert disk.stored is not None
    assert_same(disk.interactions, memory.interactions)
    assert disk.notes == memory.notes
    split = section(folder, *more).split
    one, other = load_split(disk, split), load_split(memory, split)
    for part in ("train", "validation", "test", "before_test"):
        assert_same(getattr(one, part), getattr(other, part))
    assert one.description == other.description


def test_a_csv_in_parts_is_the_whole_csv(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop", rows_of(30, grouped=False))
    whole = read_table_file(folder / "interactions.csv", Findings(), tuple(HEADER))
    assert whole is not None
    for size in (1, 60, 1 << 20):
        parts = list(csv_parts(folder / "interactions.csv", tuple(HEADER), Findings(), size=size))
        assert pl.concat([part.frame for part in parts]).equals(whole.frame)
        assert pl.concat([part.row_numbers for part in parts]).to_list() == whole.row_numbers.to_list()


def broken(how: str, folder: Path) -> None:
    file = folder / "interactions.csv"
    rows = rows_of(20, grouped=True)
    if how == "unknown items":
        rows[5][1] = rows[60][1] = "i99"
    elif how == "bad time":
        rows[50][2] = "yesterday"
    write(folder, rows)
    if how == "too wide":
        file.write_text(file.read_text(encoding="utf-8") + "a,b,c,d,e,f,g\n", encoding="utf-8")
    elif how == "not UTF-8":
        file.write_bytes(file.read_bytes() + b"a,i1,1700000000,rate,\xff,\n")
    elif how == "no column":
        file.write_text("user,item,when\na,i1,1700000000\n", encoding="utf-8")
    elif how == "header only":
        file.write_text(",".join(HEADER) + "\n", encoding="utf-8")
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "cut Parquet":
        file.unlink()
        write(folder, rows, "parquet")
        whole = (folder / "interactions.parquet").read_bytes()
        (folder / "interactions.parquet").write_bytes(whole[: len(whole) // 2])
    elif how == "no row in Parquet":
        file.unlink()
        write(folder, rows[:1], "parquet")
        pl.read_parquet(folder / "interactions.parquet").clear().write_parquet(folder / "interactions.parquet")
    elif how == "low values":
        write(folder, [[*row[:4], 0, ""] for row in rows])


@pytest.mark.parametrize(
    "how",
    ["unknown items", "bad time", "too wide", "not UTF-8", "no column", "header only", "empty", "cut Parquet",
     "no row in Parquet", "low values"],
)  # fmt: skip
def test_faults_are_told_in_the_same_words(tmp_path: Path, how: str) -> None:
    broken(how, tmp_path / "shop")
    told = []
    for load in (lambda: on_disk(tmp_path / "shop", tmp_path / "cache", "data.minimum_value=1"),
                 lambda: in_memory(tmp_path / "shop", "data.minimum_value=1")):  # fmt: skip
        with pytest.raises(MmfedError) as fault:
            load()
        told.append((fault.value.code, fault.value.message, fault.value.fix))
    assert told[0] == told[1]
    assert [one.name for one in (tmp_path / "cache").iterdir() if one.is_dir()] == []


def test_users_without_interactions_are_left_out(tmp_path: Path) -> None:
    rows = [[f"u{user}", "i1", 1_700_000_000, "rate", 1 if user % 2 else 5, ""] for user in range(10)]
    shop = on_disk(write(tmp_path / "shop", rows), tmp_path / "cache", "data.minimum_value=3")
    assert list(shop.interactions.user_ids) == ["u0", "u2", "u4", "u6", "u8"]
    assert "5 users without interactions were left out" in shop.notes


def test_built_once_and_again_for_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = write(tmp_path / "shop", rows_of(20, grouped=True)), tmp_path / "cache"
    first = on_disk(folder, cache)
    built = []
    real = population.build_interactions
    monkeypatch.setattr(population, "build_interactions", lambda *a, **k: built.append(1) or real(*a, **k))
    assert_same(on_disk(folder, cache).interactions, first.interactions)
    assert not built
    write(folder, rows_of(21, grouped=True))
    assert on_disk(folder, cache).interactions.user_count == 21
    assert len(built) == 1
    assert first.stored is not None
    assert first.stored.stat().st_mode & 0o077 == 0  # what people did is nobody else's to read


@pytest.mark.parametrize("part", ["", "split"])
@pytest.mark.parametrize("how", ["cut off", "changed", "missing", "no record"])
def test_damaged_files_are_named(tmp_path: Path, part: str, how: str) -> None:
    folder, cache = write(tmp_path / "shop", rows_of(20, grouped=True)), tmp_path / "cache"
    shop = on_disk(folder, cache)
    load_split(shop, section(folder).split)
    assert shop.stored is not None
    home = next(shop.stored.glob("split-*")) if part else shop.stored
    path = home / "train" / "items" if part else home / "items"
    if how == "cut off":
        path.write_bytes(path.read_bytes()[:-4])
    elif how == "changed":
        path.write_bytes(b"\xff" + path.read_bytes()[1:])
    elif how == "missing":
        path.unlink()
    else:
        path = home / "population.json"
        path.write_text("{")
    with pytest.raises(MmfedError) as fault:
        load_split(on_disk(folder, cache), section(folder).split)
    assert fault.value.code == ExitCode.STORAGE
    assert str(path) in fault.value.message
    assert f"delete the folder {home}" in fault.value.fix


def test_a_refusing_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    folder, cache = write(tmp_path / "shop", rows_of(40, grouped=True)), tmp_path / "cache"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # no file beyond 500 bytes: the system refuses, as when full
    try:
        with pytest.raises(MmfedError) as fault:
            on_disk(folder, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert fault.value.code == ExitCode.STORAGE
    assert not [one for one in cache.iterdir() if one.is_dir()]
    assert on_disk(folder, cache).interactions.user_count == 40


BUILD = """
import json, sys
from pathlib import Path
from mmfed.config import build_config
from mmfed.data.load import load_shop, load_split
config = build_config({}, ["data.source=table", f"data.path={sys.argv[1]}", "data.on_disk=always"])
shop = load_shop(config.data, seed=0, cache=Path(sys.argv[2]))
print(json.dumps([int(load_split(shop, config.data.split).train.items.sum()), str(shop.stored)]))
"""


def test_two_processes_at_once_and_one_that_was_killed(tmp_path: Path) -> None:
    folder, cache = write(tmp_path / "shop", rows_of(60, grouped=False)), tmp_path / "cache"
    expected = on_disk(folder, tmp_path / "other")
    assert expected.stored is not None
    left = cache / f".{expected.stored.name}.part-killed"
    left.mkdir(parents=True)
    (left / "items").write_bytes(b"half")
    command = [sys.executable, "-c", BUILD, str(folder), str(cache)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [json.loads(one.communicate()[0]) for one in started]
    total = int(load_split(expected, section(folder).split).train.items.sum())
    assert answers == [[total, str(cache / expected.stored.name)]] * 2
    assert [one.name for one in cache.iterdir() if one.is_dir()] == [expected.stored.name]


def test_ids_read_like_a_list(tmp_path: Path) -> None:
    ids = on_disk(write(tmp_path / "shop", rows_of(20, grouped=True)), tmp_path / "cache").interactions.user_ids
    assert isinstance(ids, StoredIds)
    whole = list(ids)
    assert ids[-1] == whole[-1] == "ü19"
    assert list(ids[3:7]) == whole[3:7]
    assert list(ids[7:3]) == []
    assert ids.keys.tolist() == [user_key(one) for one in whole]
    with pytest.raises(IndexError):
        ids[20]


def test_rows_of_some_users_only(tmp_path: Path) -> None:
    found = in_memory(write(tmp_path / "shop", rows_of(20, grouped=True))).interactions
    some = found.only_rows_of(np.array([2, 5]))
    assert some.user_count == 20
    assert len(some) == int(found.lengths[[2, 5]].sum())
    np.testing.assert_array_equal(some.items[some.rows(5)], found.items[found.rows(5)])
    pairs = {(user, int(item)) for user in range(20) for item in found.items[found.rows(user)]}
    assert found.users_per_item().tolist() == [sum(item == one for _, item in pairs) for one in range(ITEMS)]


@pytest.mark.parametrize(("kind", "large"), [("csv", False), ("parquet", True)])
def test_large_files_go_to_disk_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, large: bool
) -> None:
    monkeypatch.setattr(population, "LARGE_ROWS", 10)
    folder = write(tmp_path / "shop", rows_of(20, grouped=True), kind)
    shop = load_shop(section(folder, on_disk="auto"), seed=0, cache=tmp_path / "cache")
    assert (shop.stored is not None) == large
