"""What people say about themselves: what may be listed, what is read, and what is said about what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmfed.config import Config, DataSection, build_config, load_config
from mmfed.data.check import check_shop
from mmfed.data.load import load_shop
from mmfed.data.people import People
from mmfed.data.schema import Shop
from mmfed.errors import ExitCode, MmfedError
from mmfed.person_attributes import AGE_BANDS, PersonAttribute

INTERACTIONS = (
    "user,item,time\nanna,a,2024-01-01\nben,a,2024-01-02\ncara,b,2024-01-03\ndora,b,2024-01-04\nemil,a,2024-01-05\n"
)
ITEMS = "item,title\na,Apple\nb,Book\n"
PEOPLE = (
    "user,age,region,member\nben,18,north,yes\nanna,17.9,,no\nzoe,40,south,\ncara,abc,Atlantis,\n,30,north,\n"
    "ben,60,south,\nemil, 55 , south ,yes\n"
)
ASKED = {"age": [18, 35, 55], "region": ["north", "south"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("interactions", INTERACTIONS), ("items", ITEMS), ("people", PEOPLE)):
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
    return tmp_path


def load(folder: Path, people: object = ASKED, **values: object) -> Shop:
    section = {"source": "table", "path": folder, "people": people, **values}
    return load_shop(DataSection.model_validate(section), seed=0)


def people_of(shop: Shop) -> dict[str, list[int]]:
    assert shop.people is not None
    assert list(shop.people.user_ids) == list(shop.interactions.user_ids)
    return dict(zip(shop.people.user_ids, shop.people.values.tolist(), strict=True))


def test_answers_by_band_and_category_in_the_order_of_the_users(folder: Path) -> None:
    shop = load(folder)
    assert people_of(shop) == {"anna": [0, -1], "ben": [1, 0], "cara": [-1, -1], "dora": [-1, -1], "emil": [3, 1]}
    assert shop.people is not None
    assert shop.people.rows.tolist() == [[0, -1], [1, 4], [-1, -1], [-1, -1], [3, 5]]
    assert "age: known of 3 of 5 users (4 values)" in shop.notes
    assert "region: known of 2 of 5 users (2 values)" in shop.notes


def test_nothing_is_read_unless_it_is_asked_for(folder: Path) -> None:
    (folder / "people.csv").write_bytes(b"\xff\xff")
    assert load(folder, {}).people is None
    with pytest.raises(MmfedError, match=r"people\.csv"):
        load(folder)


def test_columns_that_are_not_asked_for_are_not_kept(folder: Path) -> None:
    asked = {"member": ["yes", "no"]}
    assert people_of(load(folder, asked)) == {"anna": [1], "ben": [0], "cara": [-1], "dora": [-1], "emil": [0]}


def test_a_device_without_the_file_says_nothing(folder: Path) -> None:
    (folder / "people.csv").unlink()
    assert set(map(tuple, people_of(load(folder)).values())) == {(-1, -1)}
    (folder / "interactions.csv").unlink()
    section = DataSection.model_validate({"source": "table", "path": folder, "people": ASKED})
    coordinator = load_shop(section, seed=0, interactions_optional=True)
    assert coordinator.people is not None
    assert coordinator.people.rows.shape == (0, 2)


def test_parquet_and_fewer_users(folder: Path) -> None:
    frame = pl.read_csv(folder / "people.csv", infer_schema=False).with_columns(pl.col("age").replace("abc", None))
    frame.with_columns(pl.col("age").str.strip_chars().cast(pl.Float64)).write_parquet(folder / "people.parquet")
    (folder / "people.csv").unlink()
    found = people_of(load(folder, users=2))
    assert found == {"anna": [0, -1], "ben": [1, 0]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("user,region\nben,north\n", "no column age"),
        ("age,region\n17,north\n", "no column user"),
        ("", "the file is empty"),
        ("user,age,region\nben\x07,18,north\n", "control characters"),
    ],
)
def test_faults_of_the_file_quote_no_cell(folder: Path, content: str, words: str) -> None:
    (folder / "people.csv").write_text(content, encoding="utf-8")
    with pytest.raises(MmfedError) as caught:
        load(folder)
    assert words in caught.value.message
    assert not any(cell in caught.value.message + caught.value.fix for cell in ("ben", "17", "north"))


def test_notes_of_the_shop_count_and_quote_nothing(folder: Path) -> None:
    notes = [note for note in load(folder).notes if note.startswith("people.csv")]
    assert len(notes) == 4  # an empty user, one twice, no number, not listed
    assert all("(1 rows)" in note for note in notes)
    assert not any(word in note for note in notes for word in ("Atlantis", "abc", "cara", "ben"))


def test_the_check_counts_what_is_not_listed_and_proposes_what_could_be(folder: Path) -> None:
    section = DataSection.model_validate({"source": "table", "path": folder, "people": ASKED})
    warned = [(one.row, one.column) for one in check_shop(folder, section).findings if one.file == "people.csv"]
    assert warned == [(6, "user"), (7, "user"), (5, "age"), (5, "region")]
    unlisted = DataSection.model_validate({"source": "table", "path": folder, "people": {**ASKED, "region": []}})
    proposed = [one.fix for one in check_shop(folder, unlisted).findings if one.column == "region"]
    assert len(proposed) == 1
    assert 'data.people.region = ["Atlantis", "north", "south"]' in proposed[0]
    unasked = [one for one in check_shop(folder).findings if one.file == "people.csv"]
    assert [one.severity for one in unasked] == ["warning"] * 3
    assert [one.column for one in unasked] == ["age", "region", "member"]
    assert 'data.people.member = ["no", "yes"]' in unasked[2].fix
    assert check_shop(folder).ok
    (folder / "people.csv").unlink()
    missing = [one for one in check_shop(folder, section).findings if one.file == "people.csv"]
    assert [one.severity for one in missing] == ["warning"]
    assert not [one for one in check_shop(folder).findings if one.file == "people.csv"]


def test_people_in_another_order_and_of_nobody() -> None:
    people = People(["a", "b"], (PersonAttribute("x", labels=("p", "q")),), np.array([[1], [0]]))
    assert people.for_users(["b", "c", "a"]).values.tolist() == [[0], [-1], [1]]
    assert people.for_users([]).values.shape == (0, 1)


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ({"age": [35, 18]}, "ascending"),
        ({"age": [18, 18]}, "ascending"),
        ({"age": [float("inf")]}, "ascending finite"),
        ({"age": [18, "old"]}, "not both"),
        ({"age": [True]}, "not both"),
        ({"age": 18}, "list its values"),
        ({"region": "default"}, "list its values"),
        ({"region": ["north", " north"]}, "listed once"),
        ({"region": ["north", " "]}, "listed once"),
        ({"Region": ["north"]}, "no name of an attribute"),
        ({"user": ["anna"]}, "no name of an attribute"),
        ({"zip": [str(number) for number in range(1001)]}, "1000 are the most"),
        (["age"], "a table of lists"),
    ],
)
def test_lists_of_no_use_are_refused(listed: object, words: str) -> None:
    with pytest.raises(MmfedError) as caught:
        build_config({"data": {"people": listed}})
    assert caught.value.code == ExitCode.CONFIG
    assert words in caught.value.message
    assert "data.people" in caught.value.message


def test_configuration_round_trip(tmp_path: Path) -> None:
    config = build_config({}, ['data.people.region=["north","south"]', "data.people.age=default"])
    assert config.data.people[1] == PersonAttribute("age", bands=AGE_BANDS)
    assert [one.size for one in config.data.people] == [2, 6]
    (tmp_path / "config.toml").write_text(config.to_toml(), encoding="utf-8")
    assert load_config(tmp_path / "config.toml") == config
    assert Config.from_flat(config.to_flat()) == config
    assert build_config(config.model_dump(mode="json")) == config
    assert hash(config) != hash(build_config({}))


@pytest.mark.parametrize(("source", "words"), [("demo", "knows nothing about people"), ("mmrec", "knows nothing")])
def test_sources_without_people(tmp_path: Path, source: str, words: str) -> None:
    section = DataSection.model_validate({"source": source, "path": tmp_path, "people": ASKED})
    with pytest.raises(MmfedError, match=words):
        load_shop(section, seed=0)


def test_an_attribute_without_values_is_refused_without_a_look_at_the_people(folder: Path) -> None:
    with pytest.raises(MmfedError) as caught:
        load(folder, {"region": []})
    assert "data.people.region lists no values" in caught.value.message
    assert "Atlantis" not in caught.value.message + caught.value.fix


def test_a_shop_kept_on_disk_says_that_it_has_no_place_for_people_yet(tmp_path):
    asked = {"source": "table", "path": tmp_path, "people": {"age": [18, 35]}}
    with pytest.raises(MmfedError, match=r"data\.on_disk"):
        load_shop(DataSection.model_validate({**asked, "on_disk": "always"}), seed=0, cache=tmp_path)
