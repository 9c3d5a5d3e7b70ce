"""The shop's own format in the dialects people really write."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmfed.config import DataSection
from mmfed.data.load import load_shop
from mmfed.data.schema import Action, Shop, Tags
from mmfed.data.sources.columns import iso_seconds
from mmfed.errors import MmfedError

ITEMS = "item,title,text,price,category,store,colour,materials,weight,image\n" + (
    'a,"Big ""A""","first\nline",10.5,tops,north,red,wool|silk,1.5,pictures/a.jpg\n'
    "b,B,,,tops,south,blue,cotton,,b.jpg\n"
    "c,,Third,0,shoes,,,,3,\n"
)
INTERACTIONS = "user,item,time,action,value\n" + (
    "u2,b,2024-01-02,buy,2\nu1,a,2024-01-03,,\nu1,c,2024-01-01,,4.5\nu2,a,2024-01-02,View,\n"
)


def load(folder: Path, **values: object) -> Shop:
    return load_shop(DataSection.model_validate({"source": "table", "path": folder, **values}), seed=0)


def write(folder: Path, interactions: str = INTERACTIONS, items: str = ITEMS, encoding: str = "utf-8") -> Path:
    (folder / "media" / "pictures").mkdir(parents=True, exist_ok=True)
    (folder / "media" / "pictures" / "a.jpg").touch()
    (folder / "b.jpg").touch()
    for name, text in (("interactions.csv", interactions), ("items.csv", items)):
        (folder / name).write_bytes(text.encode(encoding))
    return folder


def summary(shop: Shop) -> tuple[object, ...]:
    rows, public = shop.interactions, shop.catalogue
    return (
        *(
            list(rows.user_ids),
            rows.items.tolist(),
            rows.times.tolist(),
            rows.actions.tolist(),
            str(rows.values.tolist()),
        ),
        *(
            public.item_ids,
            public.titles,
            public.texts,
            public.images,
            str(public.prices.tolist()),
            list(public.numeric),
        ),
    )


def test_every_column_arrives(tmp_path: Path) -> None:
    shop = load(write(tmp_path))
    public, rows = shop.catalogue, shop.interactions
    assert public.item_ids == ("a", "b", "c")
    assert public.titles == ('Big "A"', "B", None)
    assert public.texts == ("first\nline", None, "Third")
    np.testing.assert_array_equal(public.prices, np.array([10.5, np.nan, 0], dtype=np.float32))
    assert public.images == (tmp_path / "media/pictures/a.jpg", tmp_path / "b.jpg", None)
    assert public.category is not None
    assert public.category.names == ("shoes", "tops")
    assert public.store is not None
    assert public.store.codes.tolist() == [0, 1, -1]
    assert public.categorical["colour"].codes.tolist() == [1, 0, -1]
    assert public.tags["materials"].names == ("cotton", "silk", "wool")
    assert public.tags["materials"].matrix.tolist() == [[False, True, True], [True, False, False], [False] * 3]
    np.testing.assert_array_equal(public.numeric["weight"], np.array([1.5, np.nan, 3], dtype=np.float32))
    assert list(rows.user_ids) == ["u2", "u1"]  # in the order of the file
    assert rows.items.tolist() == [1, 0, 2, 0]  # by time, ties by input order
    assert rows.actions.tolist() == [Action.BUY, Action.VIEW, Action.RATE, Action.VIEW]
    np.testing.assert_array_equal(rows.values, np.array([2, np.nan, 4.5, np.nan], dtype=np.float32))
    assert all(
        array.flags.writeable
        for array in (rows.items, rows.times, rows.values, public.prices, public.numeric["weight"])
    )


@pytest.mark.parametrize(
    "dialect",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: "\ufeff" + text,
        lambda text: "\ufeff" + text.replace("\n", "\r\n").replace(",", ";"),
        lambda text: text.rstrip("\n"),
        lambda text: text + "\n\n",
        lambda text: text.replace("item", " Item ", 1).replace("user", "USER", 1),
    ],
    ids=["crlf", "semicolon", "tab", "bom", "excel", "no last newline", "blank end", "header case"],
)  # fmt: skip
def test_dialects_give_the_same_shop(tmp_path: Path, dialect: object) -> None:
    items = ITEMS.replace("first\nline", "first line")
    plain = summary(load(write(tmp_path, INTERACTIONS, items)))
    assert summary(load(write(tmp_path, dialect(INTERACTIONS), dialect(items)))) == plain  # type: ignore[operator]


def test_blank_lines_do_not_shift_row_numbers(tmp_path: Path) -> None:
    write(tmp_path, INTERACTIONS.replace("u1,a", "\n\nu1,zzz", 1))
    with pytest.raises(MmfedError, match=r"interactions.csv, row 5, column item: 'zzz' is not"):
        load(tmp_path)


def test_parquet_gives_the_same_shop_with_types_of_its_own(tmp_path: Path) -> None:
    plain = summary(load(write(tmp_path)))
    (tmp_path / "items.csv").unlink()
    (tmp_path / "interactions.csv").unlink()
    pl.DataFrame(
        {
            "user": pl.Series(["u2", "u1", "u1", "u2"], dtype=pl.Categorical),
            "item": ["b", "a", "c", "a"],
            "time": pl.Series([date(2024, 1, 2), date(2024, 1, 3), date(2024, 1, 1), date(2024, 1, 2)]),
            "action": ["buy", None, None, "view"],
            "value": [2.0, None, 4.5, None],
        }
    ).write_parquet(tmp_path / "interactions.parquet")
    pl.DataFrame(
        {
            "item": ["a", "b", "c"],
            "title": ['Big "A"', "B", None],
            "text": ["first\nline", None, "Third"],
            "price": [10.5, None, 0.0],
            "category": ["tops", "tops", "shoes"],
            "materials": [["wool", "silk"], ["cotton"], None],
            "washable": [True, False, None],
            "weight": [1.5, None, 3.0],
            "image": ["pictures/a.jpg", "b.jpg", None],
        }
    ).write_parquet(tmp_path / "items.parquet")
    shop = load(tmp_path)
    assert summary(shop) == plain
    assert shop.catalogue.tags["materials"].names == ("cotton", "silk", "wool")
    assert shop.catalogue.categorical["washable"].names == ("false", "true")


@pytest.mark.parametrize("dtype", [pl.Int64, pl.UInt64, pl.Int8, pl.Float64])
def test_numbered_ids_of_any_type_mean_the_same(tmp_path: Path, dtype: type[pl.DataType]) -> None:
    pl.DataFrame({"item": pl.Series([1, 2], dtype=dtype)}).write_parquet(tmp_path / "items.parquet")
    (tmp_path / "interactions.csv").write_text("user,item,time\n7,2,2024-01-01\n8,1,2024-01-01\n")
    shop = load(tmp_path)
    assert shop.catalogue.item_ids == ("1", "2")
    assert shop.interactions.items.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-03-01", datetime(2024, 3, 1, tzinfo=UTC)),
        ("2024-03-01T12:30", datetime(2024, 3, 1, 12, 30, tzinfo=UTC)),
        ("2024-03-01 12:30:15", datetime(2024, 3, 1, 12, 30, 15, tzinfo=UTC)),
        ("2024-03-01T12:30:15.75Z", datetime(2024, 3, 1, 12, 30, 15, 750000, tzinfo=UTC)),
        ("2024-03-01T12:30:15+02:00", datetime(2024, 3, 1, 10, 30, 15, tzinfo=UTC)),
        ("2024-03-01 12:30:15-0530", datetime(2024, 3, 1, 18, 0, 15, tzinfo=UTC)),
        ("2024-03-01 12:30:15 UTC", datetime(2024, 3, 1, 12, 30, 15, tzinfo=UTC)),
        ("2024-03-01T12:30:15+01", datetime(2024, 3, 1, 11, 30, 15, tzinfo=UTC)),
        ("2024-13-01", None),
        ("01.03.2024", None),
        ("2024-03-01T25:00", None),
        ("2024-03-01T12:30:15+02:00 or so", None),
    ],
)
def test_iso_times(text: str, expected: datetime | None) -> None:
    assert iso_seconds(pl.Series([text])).to_list() == [None if expected is None else expected.timestamp()]


def test_mixed_times_and_fractions_of_seconds(tmp_path: Path) -> None:
    write(tmp_path, "user,item,time\nu,a,1704067200\nu,b,2024-01-01T00:00:01.9Z\nv,c,1704067202.7\n")
    assert load(tmp_path).interactions.times.tolist() == [1704067200, 1704067201, 1704067202]


def test_a_category_of_several_labels_becomes_tags(tmp_path: Path) -> None:
    write(tmp_path, items="item,category\na,tops|summer\nb, tops | \nc,\n")
    category = load(tmp_path).catalogue.category
    assert isinstance(category, Tags)
    assert category.names == ("summer", "tops")
    assert category.matrix.tolist() == [[True, True], [False, True], [False, False]]


def test_a_description_stands_in_for_a_missing_text(tmp_path: Path) -> None:
    write(tmp_path, items="item,text,description\na,,From the maker\nb,Ours,Theirs\nc,,\n")
    assert load(tmp_path).catalogue.texts == ("From the maker", "Ours", None)


def test_free_text_is_no_attribute_and_says_so(tmp_path: Path) -> None:
    rows = "".join(f"i{i},remark number {i},{i % 3}x\n" for i in range(30))
    write(tmp_path, items="item,remark,size\na,one,1x\nb,two,2x\nc,three,0x\n" + rows)
    shop = load(tmp_path)
    assert list(shop.catalogue.categorical) == ["size"]
    assert any("column remark" in note and "left out" in note for note in shop.notes)


def test_one_bad_number_does_not_turn_a_column_into_labels(tmp_path: Path) -> None:
    rows = "".join(f"i{i},{i}\n" for i in range(30))
    write(tmp_path, items="item,weight\na,1\nb,heavy\nc,3\n" + rows)
    shop = load(tmp_path)
    assert np.isnan(shop.catalogue.numeric["weight"][1])
    assert any("column weight" in note for note in shop.notes)


def test_rows_without_user_item_or_time_are_left_out_and_told(tmp_path: Path) -> None:
    write(tmp_path, INTERACTIONS + ",a,2024-01-01,,\nu3,,2024-01-01,,\nu4,a,,,\n")
    shop = load(tmp_path)
    assert list(shop.interactions.user_ids) == ["u2", "u1"]
    assert sum("the cell is empty" in note for note in shop.notes) == 3


def test_only_the_first_users_are_kept_on_demand(tmp_path: Path) -> None:
    shop = load(write(tmp_path), users=1)
    assert list(shop.interactions.user_ids) == ["u2"]
    assert any("first 1 of 2 users" in note for note in shop.notes)
    assert shop.catalogue.size == 3
