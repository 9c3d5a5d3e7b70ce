"""A small shop, a trained run, and the command line called in this process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_shop import PRIVATE, Command, Outcome, settings, write_shop

from mmfed.cli.main import run


@pytest.fixture
def mmfed(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process."""

    def command(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = run(arguments)
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return command


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with a small shop in it."""
    monkeypatch.chdir(tmp_path)
    write_shop(tmp_path / "shop")
    return tmp_path


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a shop and two finished runs: ``demo`` with user-level privacy and ``plain`` without."""
    folder = tmp_path_factory.mktemp("trained")
    write_shop(folder / "shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for more in (("run.name=demo", *PRIVATE), ("run.name=plain", "privacy.mode=none")):
            if run(["simulate", *settings(*more)]) != 0:
                raise RuntimeError("the small run failed")
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ``trained_once`` to work in."""
    folder = tmp_path / "trained"
    shutil.copytree(trained_once, folder)
    monkeypatch.chdir(folder)
    return folder
