"""A tiny shop, trained runs on it, and the command line called in this process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_shop import GIVEN_NOISE, Command, Outcome, options
from tiny_shop import write_tiny_shop

from mmfed.cli.main import run
from mmfed.federated import workspace


@pytest.fixture(autouse=True)
def _fresh_process() -> Iterator[None]:
    """A command is a process of its own: what another one loaded is not there, in session fixtures either."""
    _forget()
    yield
    _forget()


def _forget() -> None:
    workspace._SHOPS.clear()
    workspace._WORKSPACES.clear()


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
    """A current folder with nothing but the tiny shop in it."""
    monkeypatch.chdir(tmp_path)
    write_tiny_shop(tmp_path / "shop")
    return tmp_path


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shop and three finished runs: ``demo`` (user-level privacy), ``device`` (record) and ``plain``."""
    folder = tmp_path_factory.mktemp("trained")
    write_tiny_shop(folder / "shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for more in (
            ("run.name=demo", "privacy.epsilon=4"),
            ("run.name=device", "privacy.mode=record", "federation.nodes=2", *GIVEN_NOISE),
            ("run.name=plain", "privacy.mode=none"),
        ):
            if run(["simulate", *options(*more)]) != 0:
                raise RuntimeError(f"the run with {more} failed")
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ``trained_once`` as the current folder."""
    folder = tmp_path / "trained"
    shutil.copytree(trained_once, folder)
    monkeypatch.chdir(folder)
    return folder
