"""Which source a configuration means, and what is missing in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmfed.config import DataSection
from mmfed.data.load import load_shop
from mmfed.errors import ExitCode, MmfedError


@pytest.mark.parametrize("source", ["table", "movielens", "mmrec"])
def test_every_source_but_the_demo_needs_a_folder(source: str, tmp_path: Path) -> None:
    with pytest.raises(MmfedError, match=r"needs data\.path") as caught:
        load_shop(DataSection.model_validate({"source": source}), seed=0)
    assert caught.value.code is ExitCode.CONFIG
    (tmp_path / "file").touch()
    for path, message in ((tmp_path / "file", "is not a folder"), (tmp_path / "gone", "no such folder")):
        with pytest.raises(MmfedError, match=message) as caught:
            load_shop(DataSection.model_validate({"source": source, "path": path}), seed=0)
        assert caught.value.code is ExitCode.DATA


@pytest.mark.parametrize("source", ["table", "movielens", "mmrec"])
def test_an_empty_folder_is_a_fault_of_the_data(source: str, tmp_path: Path) -> None:
    with pytest.raises(MmfedError) as caught:
        load_shop(DataSection.model_validate({"source": source, "path": tmp_path}), seed=0)
    assert caught.value.code is ExitCode.DATA


def test_the_demo_shop_needs_no_folder() -> None:
    shop = load_shop(DataSection.model_validate({"users": 50}), seed=0)
    assert shop.interactions.user_count == 50
