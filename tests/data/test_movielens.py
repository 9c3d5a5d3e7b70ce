"""MovieLens-100K: the counts of the real release, and the order, missing values and faults of a small one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmfed.config import DataSection, SplitSection
from mmfed.data.load import load_shop
from mmfed.data.schema import Action, Shop, Tags
from mmfed.data.split import split_shop
from mmfed.errors import ExitCode, MmfedError


def load(folder: Path) -> Shop:
    return load_shop(DataSection.model_validate({"source": "movielens", "path": folder}), seed=0)


def item(number: int, title: str, released: str, *genres: int) -> str:
    flags = "|".join("1" if g in genres else "0" for g in range(19))
    return f"{number}|{title}|{released}||http://example.org|{flags}\n"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    rows = item(1, "Amélie (2001)", "01-Jan-2001", 5, 14), item(2, "unknown", "", 0), item(3, "Old (1939)", "", 8)
    (tmp_path / "u.item").write_bytes("".join(rows).encode("latin-1"))
    (tmp_path / "u.data").write_text(
        "10\t3\t4\t900000000\n9\t1\t5\t900000005\n10\t1\t1\t900000000\n10\t2\t3\t800000000\n"
    )
    (tmp_path / "posters").mkdir()
    (tmp_path / "posters" / "3.jpg").touch()
    (tmp_path / "items.csv").write_text(
        "movie_id,overview,original_language,runtime,vote_average\n"
        '1,"A girl, ""Amélie""",fr,122,8\n1,Second,en,1,8\n3,,nan,0,8\n'
    )
    return tmp_path


def test_a_small_release(small: Path) -> None:
    shop = load(small)
    public, rows = shop.catalogue, shop.interactions
    assert public.titles == ("Amélie (2001)", "unknown", "Old (1939)")
    assert public.texts == ('A girl, "Amélie"', None, None)
    assert public.images == (None, None, small / "posters/3.jpg")
    assert isinstance(public.category, Tags)
    assert len(public.category.names) == 18
    labels = [[n for n, on in zip(public.category.names, row, strict=True) if on] for row in public.category.matrix]
    assert labels == [["Comedy", "Romance"], [], ["Drama"]]
    np.testing.assert_array_equal(public.numeric["year"], np.array([2001, np.nan, 1939], dtype=np.float32))
    np.testing.assert_array_equal(public.numeric["runtime"], np.array([122, np.nan, np.nan], dtype=np.float32))
    assert [public.categorical["decade"].names[c] if c >= 0 else None for c in public.categorical["decade"].codes] == [
        "2000s",
        None,
        "1930s",
    ]
    assert public.categorical["language"].codes.tolist() == [0, -1, -1]
    assert rows.user_ids == ["9", "10"]
    assert rows.items.tolist() == [0, 1, 2, 0]  # the tie of items 3 and 1 keeps the order of the file
    assert rows.values.tolist() == [5, 3, 4, 1]
    assert set(rows.actions.tolist()) == {Action.RATE}


def test_nothing_that_tells_the_audience_is_an_attribute(small: Path) -> None:
    public = load(small).catalogue
    assert set(public.numeric) == {"year", "runtime"}
    assert set(public.categorical) == {"decade", "language"}
    assert not public.tags


def test_posters_and_overviews_may_be_absent(small: Path) -> None:
    (small / "items.csv").unlink()
    assert load(small).catalogue.texts == (None, None, None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("u.data", None, "u.data: cannot be read"),
        ("u.item", None, "u.item: cannot be read"),
        ("u.data", b"", "u.data: the file is empty"),
        ("u.data", b"1\t1\t5\n", "u.data: row 1 does not have 4 fields"),
        ("u.data", b"1\t1\t5\t9\n1\t99\t5\t9\n", "u.data: row 2 is not"),
        ("u.data", b"1\t1\tfive\t9\n", "u.data: row 1 is not"),
        ("u.item", (item(1, "A", "", 1) * 2).encode(), "u.item: item 1 stands there twice"),
        ("u.item", b"1|A\n", "u.item: row 1 does not have 24 fields"),
        ("items.csv", b"\xff\xfe\x00", "items.csv: cannot be read"),
        ("items.csv", b"a,b\n1,2\n", "items.csv: cannot be read"),
    ],
)
def test_faults_are_named(small: Path, name: str, content: bytes | None, message: str) -> None:
    (small / name).unlink() if content is None else (small / name).write_bytes(content)
    with pytest.raises(MmfedError) as caught:
        load(small)
    assert caught.value.code is ExitCode.DATA
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_the_real_release(shared_data: Path) -> None:
    shop = load(shared_data / "ml100k_posters")
    public, rows = shop.catalogue, shop.interactions
    assert (rows.user_count, public.size, len(rows)) == (943, 1682, 100_000)
    assert sum(image is not None for image in public.images) == 1663
    assert sum(text is not None for text in public.texts) == 1664
    assert int(np.isnan(public.numeric["year"]).sum()) == 1
    split = split_shop(shop, SplitSection())
    assert (len(split.train), len(split.validation), len(split.test)) == (98_114, 943, 943)


USERS = "9|24|M|technician|85711\n10|53|F|other|T8H1N\n11|7|M|student|00000\n"


def people(folder: Path, **asked: object) -> list[list[int]]:
    section = DataSection.model_validate({"source": "movielens", "path": folder, "people": asked})
    found = load_shop(section, seed=0).people
    assert found is not None
    assert found.user_ids == ["9", "10"]
    return found.values.tolist()


def test_what_the_release_says_about_its_users(small: Path) -> None:
    (small / "u.user").write_text(USERS)
    assert people(small, region=["8", "0"], age="default", gender=["F", "M"]) == [[0, 1, 1], [-1, 4, 0]]
    assert people(small, occupation=["other"]) == [[-1], [0]]
    assert load(small).people is None


@pytest.mark.parametrize(
    ("text", "asked", "words"),
    [
        (USERS, {"income": [1000]}, "MovieLens-100K does not say"),
        (None, {"age": [18]}, "u.user: cannot be read"),
        ("9|24|M|technician\n", {"age": [18]}, "does not have 5 fields"),
    ],
)
def test_faults_of_the_users_file(small: Path, text: str | None, asked: dict[str, object], words: str) -> None:
    if text is not None:
        (small / "u.user").write_text(text)
    with pytest.raises(MmfedError, match=words):
        people(small, **asked)


def test_users_of_the_real_release(shared_data: Path) -> None:
    section = {"source": "movielens", "path": shared_data / "ml100k_posters"}
    asked = {"age": "default", "gender": ["F", "M"], "region": [str(digit) for digit in range(10)]}
    found = load_shop(DataSection.model_validate({**section, "people": asked}), seed=0).people
    assert found is not None
    assert (found.values[:, 1] == 0).sum() == 273
    assert (found.values[:, :2] >= 0).all()
    assert (found.values[:, 2] < 0).sum() < 30, "Canadians"
