"""docs/commands.md and docs/exit-codes.md say what is so."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import click
import pytest
import typer.main
from small_shop import Command

from mmfed.cli.main import app
from mmfed.errors import ExitCode
from mmfed.privacy.key_source import key_source
from mmfed.privacy.vault import Vault

DOCS = Path(__file__).resolve().parents[2] / "docs"


def lines_of(guide: str) -> list[str]:
    """The ``mmfed`` lines of a guide's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / guide).read_text(encoding="utf-8"), flags=re.S)
    return [line for block in blocks for line in block.splitlines() if line.startswith("mmfed ")]


def commands(group: click.Command, prefix: str = "") -> dict[str, click.Command]:
    """All commands by name, those of groups with both words."""
    if not isinstance(group, click.Group):
        return {prefix.strip(): group}
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        found |= commands(command, f"{prefix} {name}")
    return found


ALL = commands(typer.main.get_command(app))
TRAINING = {"simulate", "compare", "behaviour", "cold-start", "modalities"}
SMALLER = ("data.users=120", "federation.rounds=4", "evaluation.bootstrap=20", "training.pretraining=20")


def parse(line: str) -> str:
    """The command a line names; raises click's error when its options or arguments are not known."""
    words = shlex.split(line, comments=True)[1:]
    name = next(name for name in (" ".join(words[:2]), words[0]) if name in ALL)
    ALL[name].make_context(name, words[len(name.split()) :])
    return name


def test_guide_names_every_command_with_options_that_exist() -> None:
    assert {parse(line) for line in lines_of("commands.md")} == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_help_has_examples_that_parse(name: str, mmfed: Command) -> None:
    outcome = mmfed(*name.split(), "--help")
    assert outcome.code == 0
    shown = [line.strip() for line in outcome.out.split("Examples:")[1].splitlines() if line.strip()]
    assert shown
    for line in shown:
        words = line.split(" > ")[0]
        assert parse(words) == name
    assert "--format" in outcome.out


def test_every_exit_code_is_documented() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", (DOCS / "exit-codes.md").read_text(encoding="utf-8"), flags=re.M)
    assert {int(number): name for number, name in rows} == {int(code): code.name for code in ExitCode}


def smaller(line: str) -> list[str]:
    """The words of a line behind ``mmfed``; what trains does so on fewer people and rounds, unless it says how many."""
    words = shlex.split(line)[1:]
    if words[0] not in TRAINING or "--run" in words:
        return words
    return [*words, *(f"--set={one}" for one in SMALLER if one.split("=")[0] not in line)]


@pytest.mark.slow
def test_guide_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mmfed: Command) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("torchvision")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DOCS.parent / "simulations", tmp_path / "simulations")
    Vault(tmp_path / "state", key_source(None, tmp_path / "state"))
    for line in lines_of("commands.md"):
        outcome = mmfed(*smaller(line))
        assert outcome.code == 0, f"{line}\n{outcome.err}"
