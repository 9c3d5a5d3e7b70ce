"""The own_content file of a shop folder: what is read, and what is said about what is not."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmfed.config import DataSection
from mmfed.data.check import check_shop
from mmfed.data.load import load_shop
from mmfed.data.own_content import NO_ITEM, OwnContent
from mmfed.errors import ExitCode, MmfedError

INTERACTIONS = "user,item,time\nben,shoes,2024-01-02\nanna,shirt,2024-01-01\nanna,hat,2024-01-03\n"
ITEMS = "item,title\nshirt,Shirt\nshoes,Shoes\nhat,Hat\n"
CONTENT = "user,time,text,image,audio,item\n" + (
    "anna,2024-01-05,too small,,,hat\n"
    "anna,2024-01-02T10:00:00Z,,window.jpg,,\n"
    "ben,2024-01-01,boots,,ask.wav,\n"
    "carl,2024-01-01,nobody,,,\n"
    "anna,2024-01-02,  red   hat ,,,\n"
)
JANUARY = 1_704_067_200  # the first
DAY = 86_400


def shop(folder: Path, content: str = CONTENT) -> Path:
    (folder / "own_media").mkdir(parents=True, exist_ok=True)
    for name in ("window.jpg", "ask.wav"):
        (folder / "own_media" / name).touch()
    for name, text in (("interactions", INTERACTIONS), ("items", ITEMS), ("own_content", content)):
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")
    return folder


def load(folder: Path, **values: object):
    return load_shop(DataSection.model_validate({"source": "table", "path": folder, **values}), seed=0)


def own_of(folder: Path, **values: object) -> OwnContent:
    own = load(folder, **values).own
    assert own is not None
    return own


def test_rows_are_grouped_by_the_users_of_the_shop_and_ordered_in_time(tmp_path: Path) -> None:
    found = load(shop(tmp_path))
    own = found.own
    assert own is not None
    assert list(own.user_ids) == list(found.interactions.user_ids) == ["ben", "anna"]
    assert own.indptr.tolist() == [0, 1, 4]
    assert own.texts == ("boots", "red   hat", None, "too small")
    assert own.images == (None, None, tmp_path / "own_media" / "window.jpg", None)
    assert own.audios == (tmp_path / "own_media" / "ask.wav", None, None, None)
    assert own.videos == (None,) * 4
    assert own.items.tolist() == [NO_ITEM, NO_ITEM, NO_ITEM, 2]
    assert own.times.tolist() == [JANUARY, JANUARY + DAY, JANUARY + DAY + 36_000, JANUARY + 4 * DAY]
    assert "own content of 2 users: 4 rows" in found.notes
    assert any(note.startswith("1 rows of own content were left out") for note in found.notes)
    assert "carl" not in found.interactions.user_ids, "content alone makes nobody a user"


def test_a_shop_without_the_file_or_with_it_switched_off_has_none(tmp_path: Path) -> None:
    folder = shop(tmp_path)
    assert load(folder, own_content=False).own is None
    with_it = load(folder)
    (folder / "own_content.csv").unlink()
    without = load(folder)
    assert without.own is None
    assert without.interactions.items.tolist() == with_it.interactions.items.tolist()


def test_parquet_is_read_alike(tmp_path: Path) -> None:
    folder = shop(tmp_path)
    read = own_of(folder)
    pl.read_csv(folder / "own_content.csv").write_parquet(folder / "own_content.parquet")
    (folder / "own_content.csv").unlink()
    again = own_of(folder)
    assert (again.times == read.times).all()
    assert again.images == read.images
    assert again.items.tolist() == read.items.tolist()


def test_only_the_first_users_keep_theirs(tmp_path: Path) -> None:
    own = own_of(shop(tmp_path), users=1)
    assert list(own.user_ids) == ["ben"]
    assert own.texts == ("boots",)


def test_a_review_dated_before_its_interaction_is_moved_to_it(tmp_path: Path) -> None:
    content = "user,time,text,item\nanna,2024-01-01T12:00:00Z,good hat,hat\nanna,2024-01-02,query,\n"
    content += "ben,2024-01-01,never bought,hat\n"
    own = own_of(shop(tmp_path, content))
    assert own.texts == ("never bought", "query", "good hat")
    assert own.times.tolist() == [JANUARY, JANUARY + DAY, JANUARY + 2 * DAY]
    assert own.items.tolist() == [2, NO_ITEM, 2]


@pytest.mark.parametrize(
    ("content", "where", "what", "fix"),
    [
        (
            "user,time,text,item\nanna,2024-01-01,a,cap\n",
            "own_content.csv, row 2, column item",
            "not in",
            "add the item",
        ),
        ("user,time,text\nanna,yesterday,a\n", "own_content.csv, row 2, column time", "not a time", "ISO 8601"),
        ("user,time,image\nanna,2024-01-01,../x.jpg\n", "row 2, column image", "leaves the shop", "own_media/"),
        ("user,text\nanna,a\n", "own_content.csv", "no column time", "add a column"),
        ("user,time,words\nanna,2024-01-01,a\n", "own_content.csv", "no column of content", "text"),
        ("", "own_content.csv", "empty", "header"),
        ("user,time,text\nanna,2024-01-01,b\xff\n", "own_content.csv", "UTF-8", "UTF-8"),
    ],
)
def test_faults_name_file_row_column_and_mend(tmp_path: Path, content: str, where: str, what: str, fix: str) -> None:
    folder = shop(tmp_path)
    (folder / "own_content.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(MmfedError) as caught:
        load(folder)
    assert caught.value.code == ExitCode.DATA
    assert where in caught.value.message
    assert what in caught.value.message
    report = check_shop(folder)
    assert not report.ok
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    "content",
    [
        "user,time,text,item\nanna,2024-01-01,a,SECRET\n",
        "user,time,text\nanna,SECRET,a\n",
        "user,time,text\nSECRET\x07,2024-01-01,a\n",
        "user,time,image\nanna,2024-01-01,../SECRET.jpg\n",
        "anna,2024-01-01,SECRET\n",
        "user,time,text\nanna,2024-01-01,SECRET,SECRET\n",
        'user,time,text\nanna,2024-01-01,"SECRET\n',
        "user,time,image\nanna,2024-01-01,SECRET.jpg\n",
        "user,time,image\nanna,2024-01-01,https://SECRET/\n",
    ],
)
def test_no_finding_quotes_what_a_person_wrote(tmp_path: Path, content: str) -> None:
    """A device tells the coordinator its faults."""
    report = check_shop(shop(tmp_path, content))
    assert report.findings
    assert "SECRET" not in "".join(map(str, report.findings))
    if report.ok:
        assert "SECRET" not in "".join(load(tmp_path).notes)
        return
    with pytest.raises(MmfedError) as caught:
        load(tmp_path)
    assert "SECRET" not in str(caught.value)


def test_rows_that_hold_nothing_are_left_out_with_a_warning(tmp_path: Path) -> None:
    content = "user,time,text,image\nanna,2024-01-01, ,\nanna,2024-01-01,,lost.jpg\n"
    content += ",2024-01-01,a,\nanna,,b,\nanna,2024-01-02,c,\n"
    folder = shop(tmp_path, content)
    assert own_of(folder).texts == ("c",)
    rows = {(f.row, f.column) for f in check_shop(folder).findings if f.file == "own_content.csv"}
    assert rows == {(2, None), (3, None), (3, "image"), (4, "user"), (5, "time")}


def test_broken_pictures_are_found_by_the_check(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    messages = [str(f) for f in check_shop(shop(tmp_path)).findings]
    assert "own_media/window.jpg: the file is empty; the row counts as without a picture." in messages


def test_a_file_with_a_header_only_is_nobody_s_content(tmp_path: Path) -> None:
    assert load(shop(tmp_path, "user,time,text\n")).own is None


def test_the_guide_s_example_loads(tmp_path: Path) -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    interactions, items = re.findall(r"```csv\n(.*?)```", (docs / "data.md").read_text(encoding="utf-8"), re.DOTALL)
    content, people = re.findall(r"```csv\n(.*?)```", (docs / "own-content.md").read_text(encoding="utf-8"), re.DOTALL)
    folder = shop(tmp_path, content)
    (folder / "interactions.csv").write_text(interactions, encoding="utf-8")
    (folder / "items.csv").write_text(items, encoding="utf-8")
    (folder / "people.csv").write_text(people, encoding="utf-8")
    asked = load(folder, people={"age": [20, 40, 60], "region": ["north", "south"]}).people
    assert asked is not None
    assert asked.values.tolist() == [[1, 0], [-1, 1]]
    own = own_of(folder)
    assert own.texts == ("light shirt for summer", None, "runs a size small", None)
    assert own.items.tolist() == [NO_ITEM, NO_ITEM, 0, NO_ITEM]
    assert not [f for f in check_shop(folder).findings if f.file == "own_content.csv"]


def test_columns_stay_together_under_every_choice() -> None:
    generator = np.random.default_rng(0)
    counts = generator.integers(0, 4, 20)
    total = int(counts.sum())
    names = [f"u{user}" for user in range(20)]
    words = tuple(f"{user} {row}" for row, user in enumerate(np.repeat(np.arange(20), counts)))
    none = (None,) * total
    indptr = np.concatenate([[0], np.cumsum(counts)])
    own = OwnContent(names, indptr, np.arange(total), np.full(total, NO_ITEM), words, none, none, none)
    order = generator.permutation(20)[:15]
    chosen = own.for_users([*(names[user] for user in order), "unknown"])
    assert chosen.texts == tuple(word for user in order for word in words if word.startswith(f"{user} "))
    assert np.diff(chosen.indptr).tolist() == [*counts[order].tolist(), 0]
    odd = own.keep_rows(np.arange(total) % 2 == 1)
    assert odd.texts == words[1::2]
    assert all(str(word).startswith(f"{user} ") for user, word in zip(odd.user_of_row(), odd.texts, strict=True))
