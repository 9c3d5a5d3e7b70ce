"""The tiny shop, written once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_shop import tiny_run, write_tiny_shop


@pytest.fixture(scope="session")
def shop_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulation")
    write_tiny_shop(folder / "shop")
    return folder


@pytest.fixture
def configured(shop_folder: Path, tmp_path: Path):
    """Configurations of runs on the tiny shop, each with a run folder of its own."""

    def make(*more: str):
        return tiny_run(shop_folder, f"run.folder={tmp_path / 'runs'}", *more)

    return make
