"""Every way a shop's files can be broken, named by file, row and column; and the loader says the same."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmfed.config import DataSection
from mmfed.data.check import CheckReport, check_shop
from mmfed.data.findings import LISTED
from mmfed.data.load import load_shop
from mmfed.errors import ExitCode, MmfedError

INTERACTIONS = """user,item,time,action,value
anna,shirt,2024-01-01,view,
anna,shoes,2024-01-02T10:00:00Z,buy,1
ben,shirt,1704067200,rate,4.5
ben,hat,2024-01-05 10:00:00+02:00,cart,
"""
ITEMS = """item,title,price,category,colour,materials,weight,image
shirt,Shirt,19.90,tops,red,wool|silk,0.2,shirt.png
shoes,Shoes,59.00,shoes,black,leather,0.9,
hat,Hat,,hats,red,wool,0.1,
"""


def png(width: int = 2, height: int = 2) -> bytes:
    """A valid PNG header with (for a large picture: far too little) data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress((b"\0" + b"\0" * 3 * 2) * 2)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / "media").mkdir(parents=True)
    (folder / "interactions.csv").write_text(INTERACTIONS)
    (folder / "items.csv").write_text(ITEMS)
    (folder / "media" / "shirt.png").write_bytes(png())
    return folder


def load(folder: Path) -> object:
    return load_shop(DataSection.model_validate({"source": "table", "path": folder}), seed=0)


def only(report: CheckReport, severity: str) -> list[tuple[str, int | None, str | None, str]]:
    return [(f.file, f.row, f.column, f.message) for f in report.findings if f.severity == severity]


def interactions(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: _swap(folder / "interactions.csv", old, new)


def items(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: _swap(folder / "items.csv", old, new)


def _swap(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    if old not in text:
        raise ValueError(old)
    path.write_text(text.replace(old, new))


def write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def latin1(old: str, new: str) -> Callable[[Path], None]:
    return write("items.csv", ITEMS.replace(old, new).encode("latin-1"))


def cut_off_parquet(folder: Path) -> None:
    buffer = io.BytesIO()
    pl.read_csv(folder / "interactions.csv", infer_schema=False).write_parquet(buffer)
    (folder / "interactions.csv").unlink()
    (folder / "interactions.parquet").write_bytes(buffer.getvalue()[:-20])


E, I = "interactions.csv", "items.csv"  # noqa: E741
BROKEN = {
    "no interactions file": (lambda folder: (folder / E).unlink(), E, None, None, "no such file"),
    "no items file": (lambda folder: (folder / I).unlink(), I, None, None, "no such file"),
    "both formats": (write("items.parquet", b"x"), I, None, None, "items.parquet is there as well"),
    "empty interactions": (write(E, b""), E, None, None, "the file is empty"),
    "empty items": (write(I, b""), I, None, None, "the file is empty"),
    "header only": (write(E, b"user,item,time\n"), E, None, None, "no row"),
    "header only, items": (write(I, b"item,price\n\n\n"), I, None, None, "no row"),
    "blank header": (write(E, b",,\na,b,c\n"), E, 1, None, "header is empty"),
    "missing column": (interactions("item,time", "item,when"), E, None, None, "no column time among: user, item, when"),
    "missing column, close": (interactions("user,item", "user,item_id"), E, None, None, "no column item among"),
    "no header": (interactions("user,item,time,action,value\n", ""), E, None, None, "no column user"),
    "column twice": (items("title,price", "price,price"), I, 1, "price", "holds this column twice"),
    "latin-1": (latin1("Hat", "Béret"), I, 4, None, "(0xe9) is not UTF-8"),
    "latin-1 header": (latin1("weight", "poidsé"), I, 1, None, "(0xe9) is not UTF-8"),
    "utf-16": (lambda f: (f / I).write_bytes(ITEMS.encode("utf-16")) and None, I, None, None, "UTF-16"),
    "binary": (write(I, b"\x00\x01\x02\x03"), I, None, None, "not text"),
    "cut off parquet": (cut_off_parquet, "interactions.parquet", None, None, "not Parquet, or cut off"),
    "too many fields": (items("Hat,", "Hat, green,"), I, 4, None, "the row has 9 fields, the header 8"),
    "open quote": (items("Hat", '"Hat'), I, 4, None, "double quote is stray or not closed"),
    "quote inside a cell": (interactions("ben,hat", 'ben",hat'), E, 5, None, "double quote is stray or not closed"),
    "item twice": (items("hat,Hat", "shirt,Hat"), I, 4, "item", "the item 'shirt' is there already"),
    "item without id": (items("hat,Hat", ",Hat"), I, 4, "item", "has no id"),
    "unknown item": (interactions("ben,hat", "ben,cap"), E, 5, "item", "'cap' is not in the items file"),
    "price nan": (items("59.00", "nan"), I, 3, "price", "'nan' is not a finite number"),
    "price infinite": (items("59.00", "inf"), I, 3, "price", "'inf' is not a finite number"),
    "price negative": (items("59.00", "-1"), I, 3, "price", "'-1' is below 0"),
    "price in words": (items("59.00", "59 EUR"), I, 3, "price", "'59 EUR' is not a number"),
    "price with comma": (items("59.00", '"59,00"'), I, 3, "price", "'59,00' is not a number"),
    "time in words": (interactions("1704067200", "yesterday"), E, 4, "time", "'yesterday' is not a time"),
    "time nan": (interactions("1704067200", "nan"), E, 4, "time", "'nan' is not a time"),
    "no such day": (interactions("2024-01-01", "2024-02-30"), E, 2, "time", "'2024-02-30' is not a time"),
    "time in milliseconds": (interactions("1704067200", "1704067200000"), E, 4, "time", "looks like milliseconds"),
    "far future": (interactions("2024-01-01", "2124-01-01"), E, 2, "time", "more than a year ahead"),
    "beyond any calendar": (interactions("1704067200", "1e300"), E, 4, "time", "more than a year ahead"),
    "before 1995": (interactions("2024-01-01", "1994-12-31"), E, 2, "time", "before 1995"),
    "time zero": (interactions("1704067200", "0"), E, 4, "time", "before 1995"),
    "unknown action": (interactions(",cart,", ",carts,"), E, 5, "action", "'carts' is not an action"),
    "value in words": (interactions("4.5", "good"), E, 4, "value", "'good' is not a number"),
    "long user id": (interactions("anna,shirt", "a" * 257 + ",shirt"), E, 2, "user", "longer than 256"),
    "long item id": (items("hat,Hat", "h" * 300 + ",Hat"), I, 4, "item", "longer than 256"),
    "id beyond 64 bits": (interactions("ben,hat", f"{2**63},hat"), E, 5, "user", "beyond 64 bits"),
    "id with NUL": (interactions("ben,hat", "be\x00n,hat"), E, 5, "user", "control characters"),
    "path with ..": (items("shirt.png", "../../secret.png"), I, 2, "image", "leaves the folder with .."),
    "backslashes": (items("shirt.png", r"..\a.png"), I, 2, "image", "leaves the folder with .."),
    "absolute path": (items("shirt.png", "/etc/passwd"), I, 2, "image", "is an absolute path"),
    "drive": (items("shirt.png", r"C:\a.png"), I, 2, "image", "is an absolute path"),
}  # fmt: skip


def test_a_sound_shop_has_no_findings(shop: Path) -> None:
    report = check_shop(shop)
    assert report.findings == ()
    assert report.counts == {"users": 2, "items": 3, "interactions": 4, "pictures": 1, "errors": 0, "warnings": 0}
    assert report.ok


@pytest.mark.parametrize("name", BROKEN)
def test_each_fault_is_named(shop: Path, name: str) -> None:
    damage, file, row, column, message = BROKEN[name]
    damage(shop)
    report = check_shop(shop)
    assert not report.ok
    first = next(f for f in report.findings if f.severity == "error")
    assert (first.file, first.row, first.column) == (file, row, column)
    assert message in first.message
    assert first.fix
    assert "\n" not in str(first) + first.fix
    with pytest.raises(MmfedError) as caught:
        load(shop)
    assert caught.value.code is ExitCode.DATA
    assert caught.value.message.startswith(str(first))
    assert caught.value.fix == first.fix


def test_the_byte_and_row_of_a_wrong_encoding_are_counted_over_blocks(shop: Path) -> None:
    head = "user,item,time,value\n" + "é,hat,2024-01-01\n" * 100_000  # two-byte letters straddle the blocks of reading
    (shop / E).write_bytes(head.encode() + b"caf\xe9,hat,2024-01-01\n")
    error = check_shop(shop).findings[0]
    assert (error.row, error.message) == (100_002, f"byte {len(head.encode()) + 4} (0xe9) is not UTF-8")


def test_a_large_file_in_order_of_time_gives_no_warning(shop: Path) -> None:
    rows = "".join(f"u{i % 7},shirt,{1_700_000_000 + i}\n" for i in range(5000))
    (shop / E).write_text("user,item,time\n" + rows)
    assert check_shop(shop).findings == ()


def test_ids_that_differ_by_point_zero_only_get_a_hint(shop: Path) -> None:
    (shop / I).write_text("item\n1\n2\n")
    (shop / E).write_text("user,item,time\n7,1.0,2024-01-01\n8,2.0,2024-01-01\n")
    assert "without .0" in check_shop(shop).findings[0].fix


def test_all_faults_of_both_files_are_found_in_one_go(shop: Path) -> None:
    items("59.00", "-1")(shop)
    items("shoes,Shoes", "shirt,Shoes")(shop)
    interactions("ben,hat", "ben,cap")(shop)
    interactions("1704067200", "yesterday")(shop)
    interactions(",cart,", ",carts,")(shop)
    found = {(file, row, column) for file, row, column, _ in only(check_shop(shop), "error")}
    assert found >= {(I, 3, "price"), (I, 3, "item"), (E, 5, "item"), (E, 4, "time"), (E, 5, "action")}


def test_a_repeated_item_does_not_hide_faults_of_the_interactions(shop: Path) -> None:
    items("hat,Hat", "shirt,Hat")(shop)
    errors = only(check_shop(shop), "error")
    assert (E, 5, "item", "'hat' is not in the items file") in errors
    assert not any("'shoes'" in message for *_, message in errors)


def test_a_missing_items_file_does_not_hide_faults_of_the_interactions(shop: Path) -> None:
    (shop / I).unlink()
    interactions("1704067200", "yesterday")(shop)
    assert [(file, row) for file, row, *_ in only(check_shop(shop), "error")] == [(I, None), (E, 4)]


def test_after_a_row_with_too_many_fields_the_others_are_still_checked(shop: Path) -> None:
    items("Hat,", "Hat, green,")(shop)
    items("59.00", "-1")(shop)
    assert {(row, column) for _, row, column, _ in only(check_shop(shop), "error")} >= {(4, None), (3, "price")}


def test_of_one_kind_the_first_rows_are_listed_and_all_are_counted(shop: Path) -> None:
    rows = "".join(f"u{i},shirt,tomorrow,,\n" for i in range(100))
    (shop / E).write_text("user,item,time,action,value\n" + rows)
    report = check_shop(shop)
    bad = [f for f in report.findings if f.column == "time" and f.severity == "error"]
    assert [f.row for f in bad] == [*range(2, 2 + LISTED), None]
    assert bad[-1].message == "80 more rows like the ones before (the last is row 101)"
    assert report.counts["errors"] == 100 + 1  # and no interaction is left
    assert "no interactions are left after cleaning" in report.findings[-1].message


def test_nothing_left_is_said_in_the_same_words_by_the_loader(shop: Path) -> None:
    section = DataSection.model_validate({"source": "table", "path": shop, "minimum_value": 9})
    (shop / E).write_text("user,item,time,value\nanna,shirt,2024-01-01,3\nben,shirt,2024-01-01,3\n")
    error = next(f for f in check_shop(shop, section).findings if f.severity == "error")
    with pytest.raises(MmfedError, match="no interactions are left after cleaning") as caught:
        load_shop(section, seed=0)
    assert (caught.value.message, caught.value.fix) == (str(error), error.fix)


@pytest.mark.parametrize(
    ("damage", "file", "row", "column", "message"),
    [
        (interactions("shoes,2024", "shoes,2023"), E, 3, "time", "before that of the user's row above"),
        (interactions("ben,shirt", ",shirt"), E, 4, "user", "the cell is empty; the row is left out"),
        (interactions("ben,shirt,1704067200", "ben,shirt,"), E, 4, "time", "the cell is empty; the row is left out"),
        (interactions("ben", "anna"), E, None, "user", "a single user"),
        (items("shirt.png", "https://example.org/shirt.png"), I, 2, "image", "web address"),
        (items("shirt.png", "lost.png"), I, 2, "image", "there is no file 'lost.png'"),
        (items("weight", "review_count"), I, None, "review_count", "what customers did"),
        (write("media/shirt.png", b""), "media/shirt.png", None, None, "the file is empty"),
        (write("media/shirt.png", b"no picture"), "media/shirt.png", None, None, "not a readable picture"),
        (write("media/shirt.png", png()[:50]), "media/shirt.png", None, None, "not a readable picture"),
        (write("media/shirt.png", png(10_000, 6_000)), "media/shirt.png", None, None, "10000 x 6000 pixels"),
        (write("media/shirt.png", png(60_000, 60_000)), "media/shirt.png", None, None, "more than 50 million pixels"),
    ],
)  # fmt: skip
def test_a_warning_is_told_and_the_shop_loads(
    shop: Path, damage: Callable[[Path], None], file: str, row: int | None, column: str | None, message: str
) -> None:
    damage(shop)
    report = check_shop(shop)
    assert report.ok
    hits = [f for f in report.findings if (f.file, f.row, f.column) == (file, row, column) and message in f.message]
    assert len(hits) == 1, [str(f) for f in report.findings]
    load(shop)


def test_a_cut_off_jpeg_is_noticed(shop: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    items("shirt.png", "shirt.jpg")(shop)
    (shop / "media/shirt.jpg").write_bytes(buffer.getvalue())
    assert check_shop(shop).findings == ()
    (shop / "media/shirt.jpg").write_bytes(buffer.getvalue()[:-100])
    assert "cut off" in check_shop(shop).findings[0].message


def test_without_pillow_the_pictures_are_skipped_with_a_warning(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    findings = check_shop(shop).findings
    assert [f.severity for f in findings] == ["warning"]
    assert "mmfed[vision]" in findings[0].fix


def test_a_folder_that_is_not_there_is_reported(tmp_path: Path) -> None:
    report = check_shop(tmp_path / "nowhere")
    assert [f.message for f in report.findings] == ["no such folder"]
    with pytest.raises(MmfedError, match="no such folder"):
        load(tmp_path / "nowhere")


def test_an_absurd_price_is_pointed_out(shop: Path) -> None:
    rows = "".join(f"i{i},{10 + i % 7}\n" for i in range(50))
    (shop / I).write_text("item,price\nshirt,10\nshoes,20\nhat,99999999\n" + rows)
    finding = check_shop(shop).findings[0]
    assert (finding.severity, finding.column) == ("warning", "price")
    assert "items hat" in finding.message


def test_twins_are_pointed_out(shop: Path) -> None:
    rows = "".join(f"u{u},{item},2024-01-0{u}\n" for u in range(1, 7) for item in ("shirt", "hat"))
    (shop / E).write_text("user,item,time\n" + rows)
    finding = check_shop(shop).findings[0]
    assert finding.severity == "warning"
    assert "1 pairs of items" in finding.message
    assert "shirt and hat (1.00)" in finding.message


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_never_ends_in_a_traceback(shop: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for name in (E, I):
        data = bytearray((shop / name).read_bytes())
        for _ in range(int(generator.integers(1, 6))):
            data[int(generator.integers(len(data)))] = int(generator.integers(256))
        (shop / name).write_bytes(bytes(data[: int(generator.integers(1, len(data) + 1))] if seed % 3 == 0 else data))
    report = check_shop(shop)
    if report.ok:
        load(shop)
        return
    with pytest.raises(MmfedError) as caught:
        load(shop)
    assert caught.value.message.startswith(str(next(f for f in report.findings if f.severity == "error")))
