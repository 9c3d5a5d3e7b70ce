"""The file of campaigns, and every fault in it named with its place and mend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmfed.applications.campaign_file import read_campaigns
from mmfed.applications.campaigns import Campaign
from mmfed.data.schema import Catalogue, Categorical
from mmfed.errors import ExitCode, MmfedError

CATALOGUE = Catalogue(
    item_ids=("i0", "i1", "i2", "i3"),
    titles=(None,) * 4,
    texts=(None,) * 4,
    images=(None,) * 4,
    prices=np.full(4, np.nan, dtype=np.float32),
    category=Categorical(np.array([0, 1, 1, -1]), ("tea", "lamps")),
)


def written(folder: Path, text: str) -> Path:
    path = folder / "campaigns.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_items_and_categories_with_text_and_cap(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "campaign,item,category,text,cap\nlight,,lamps,Ten off,\nsale,i3,,,2\nlight,i0,,,\nlight,i1,,Ten off,\n",
    )
    assert read_campaigns(path, CATALOGUE) == (
        Campaign("light", "Ten off", (0, 1, 2)),
        Campaign("sale", None, (3,), cap=2),
    )


def test_parquet_is_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "campaigns.parquet"
    pl.DataFrame({"campaign": ["a", "a"], "item": ["i1", "i2"]}).write_parquet(path)
    assert read_campaigns(path, CATALOGUE) == (Campaign("a", None, (1, 2)),)


@pytest.mark.parametrize(
    ("text", "where", "what", "fix"),
    [
        ("campaign,item\na,i0\na,i9\n", "row 3, column item", "'i9'", "such as i0"),
        ("campaign,category\na,lamp\n", "row 2, column category", "'lamp'", "write lamps?"),
        ("campaign,item\n,i0\n", "row 2, column campaign", "empty", "name the campaign"),
        ("campaign,item,text\na,,hello\n", "row 2", "nothing is advertised", "fill in"),
        ("campaign,item,category\na,i0,tea\n", "row 2", "both", "two rows"),
        ("campaign,item,text\na,i0,x\na,i1,y\n", "row 3, column text", "another text", "once"),
        ("campaign,item,cap\na,i0,1\na,i1,2\n", "row 3, column cap", "another cap", "once"),
        ("campaign,item,cap\na,i0,0\n", "row 2, column cap", "below 1", "1 or more"),
        ("campaign,item,cap\na,i0,1.5\n", "row 2, column cap", "whole number", "1, 2, 3"),
        ("campaign,item,cap\na,i0,lots\n", "row 2, column cap", "not a number", "number"),
        ("campaign,item\n", "campaigns.csv", "no campaign", "row"),
        ("", "campaigns.csv", "empty", "header"),
        ("campaign,text\na,x\n", "campaigns.csv", "no column item", "add one"),
        ("name,item\na,i0\n", "campaigns.csv", "no column campaign", "campaign"),
    ],
)
def test_faults_name_place_and_mend(tmp_path: Path, text: str, where: str, what: str, fix: str) -> None:
    with pytest.raises(MmfedError) as caught:
        read_campaigns(written(tmp_path, text), CATALOGUE)
    assert caught.value.code is ExitCode.DATA
    assert "campaigns.csv" in caught.value.message
    assert where in caught.value.message
    assert what in caught.value.message
    assert fix in caught.value.fix


def test_more_faults_are_counted_without_a_command_that_would_not_show_them(tmp_path: Path) -> None:
    with pytest.raises(MmfedError, match=r"\(1 more errors\)"):
        read_campaigns(written(tmp_path, "campaign,item\na,x\na,y\n"), CATALOGUE)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MmfedError, match="no such file"):
        read_campaigns(tmp_path / "none.csv", CATALOGUE)
