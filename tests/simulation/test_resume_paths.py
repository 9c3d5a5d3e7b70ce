"""A run goes on however the paths of its configuration are spelled this time, and only on the same folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tiny_shop import tiny_run, write_tiny_shop

from mmfed.config import Config, build_config, load_config
from mmfed.errors import ExitCode, MmfedError
from mmfed.records import RunFolder
from mmfed.simulation.compare import compare
from mmfed.simulation.run import check_unchanged, simulate

SCENARIO = """
[data]
source = "table"
path = "../shop"
[features]
modalities = ["attributes"]
[model]
name = "mf"
dimensions = 4
[federation]
rounds = 1
[privacy]
mode = "none"
[evaluation]
bootstrap = 20
baselines = []
[run]
name = "tiny"
"""
COMPARED = '\n[compare]\nseeds = [0]\nbaselines = ["popularity"]\n[[compare.methods]]\nname = "mf"\n'


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with the tiny shop, a link to it, a copy of it, and a scenario that names it."""
    write_tiny_shop(tmp_path / "shop")
    shutil.copytree(tmp_path / "shop", tmp_path / "copy")
    (tmp_path / "link").symlink_to(tmp_path / "shop")
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "tiny.toml").write_text(SCENARIO, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scenario(place: Path, *more: str, absolute: bool = False) -> Config:
    path = Path("scenarios") / "tiny.toml"
    cache, runs = f"features.cache={place / 'features'}", f"run.folder={place / 'runs'}"
    return load_config(place / path if absolute else path, [cache, runs, *more])


@pytest.mark.parametrize("spelled", ["{place}/shop", "shop", "./copy/../shop", "link", "{place}/link/"])
def test_one_folder_in_many_spellings(place: Path, spelled: str) -> None:
    """The scenario's own path is relative to the scenario file; ``--set`` is relative to the current folder."""
    first = simulate(scenario(place))
    again = simulate(scenario(place, f"data.path={spelled.format(place=place)}"), resume=True)
    assert again.results == first.results


def test_a_scenario_named_by_an_absolute_path(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, continued = scenario(place), scenario(place, absolute=True)
    assert started.data.path != continued.data.path
    first = simulate(started)
    assert simulate(continued, resume=True).results == first.results
    monkeypatch.chdir(place / "scenarios")
    run = RunFolder(place / "runs" / "tiny")
    other = load_config(Path("tiny.toml"), [f"features.cache={place / 'features'}"])
    with pytest.raises(MmfedError, match=r"data\.path"):
        check_unchanged(run, other)  # the relative path the run was started with leads elsewhere from here


@pytest.mark.parametrize("spelled", ["copy", "{place}/copy", "none"])
def test_another_folder_is_refused_though_it_holds_the_same(place: Path, spelled: str) -> None:
    simulate(scenario(place))
    with pytest.raises(MmfedError, match=r"another configuration \(data\.path\)") as fault:
        simulate(scenario(place, f"data.path={spelled.format(place=place)}"), resume=True)
    assert fault.value.code is ExitCode.CONFIG


def test_the_other_paths_of_a_configuration(place: Path) -> None:
    config = tiny_run(place, "privacy.mode=none", "features.text.training=full")
    run = RunFolder(place / "runs" / "tiny")
    run.path.mkdir(parents=True)
    vectors = "features.text.vectors=words.txt"
    run.config.write_text(build_config(config.model_dump(mode="json"), [vectors]).to_toml(), encoding="utf-8")

    def check(*more: str) -> None:
        check_unchanged(run, build_config(config.model_dump(mode="json"), list(more)))

    check(vectors)
    check(f"features.text.vectors={place / 'words.txt'}", f"features.cache={os.path.relpath(place / 'features')}")
    for other in (("features.text.vectors=other.txt",), ("features.text.vectors=none",), (vectors, "features.cache=x")):
        with pytest.raises(MmfedError, match=other[-1].split("=")[0].replace(".", r"\.")):
            check(*other)


def test_a_comparison_goes_on_too(place: Path) -> None:
    path = place / "scenarios" / "tiny.toml"
    path.write_text(SCENARIO + COMPARED, encoding="utf-8")
    cache = f"features.cache={place / 'features'}"
    first = compare(Path("scenarios/tiny.toml"), [cache])
    for more in ([], ["data.path=link"]):
        again = compare(path, [cache, *more], resume=True)
        assert again.comparison["methods"] == first.comparison["methods"]
    with pytest.raises(MmfedError, match=r"data\.path"):
        compare(path, [cache, "data.path=copy"], resume=True)
