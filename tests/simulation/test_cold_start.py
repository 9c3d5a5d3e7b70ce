"""Cold start and missing modalities on the tiny shop: what is held out stays out, tables say what was measured."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from mmfed.config import Config, load_config
from mmfed.data.split import held_out
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.workspace import load_workspace
from mmfed.records import RunFolder
from mmfed.reports.study_tables import study_markdown
from mmfed.simulation import study as study_module
from mmfed.simulation.cold_start import cold_start
from mmfed.simulation.modalities import missing_modalities, modalities_of_run
from mmfed.simulation.study import StudyResult

SHARES = ("data.split.cold_items=0.25", "data.split.new_users=0.25")
QUICK = ("federation.rounds=2", "privacy.mode=none")


@pytest.fixture
def scenario(configured, tmp_path):
    def write(*more: str, section: str = ""):
        path = tmp_path / "scenario.toml"
        path.write_text(configured(*QUICK, "run.name=study", *more).to_toml() + section)
        return path

    return write


def config_of(run: RunFolder) -> Config:
    return load_config(run.config)


def tables_of(result: StudyResult) -> dict[str, dict[str, dict[str, float]]]:
    return {
        table["title"]: {
            row["name"]: {metric: one["mean"] for metric, one in row["metrics"].items()} for row in table["rows"]
        }
        for table in result.study["tables"]
    }


def test_rare_cold_items_can_be_left_out(scenario) -> None:
    """Among the well-known alone an item stands at least as high, and who touched none of them is no zero."""
    path = scenario(*SHARES, section="\n[cold_start]\nwell_known = 4\n")
    rows = next(table for table in cold_start(path).study["tables"] if table["title"] == "New items")["rows"]
    interactions = load_workspace(load_config(path)).shop.interactions
    held = held_out(load_workspace(load_config(path)).shop, load_config(path).data.split)
    counts = np.bincount(interactions.items, minlength=len(held.items))
    assert 0 < (held.items & (counts >= 4)).sum() < held.items.sum(), "some are rare, some are not"
    for row in rows:
        among, all_cold = (row["metrics"][f"cold_start_recall_among_{name}@10"] for name in ("well_known", "cold"))
        assert among["users"] <= all_cold["users"]
        assert among["mean"] >= all_cold["mean"] - 1e-9 or among["users"] < all_cold["users"]


def test_cold_start_measures_new_items_and_new_users(scenario, tmp_path) -> None:
    path = scenario(*SHARES, section='\n[cold_start]\nfirst = [1, 2]\nresults = "docs/cold.md"\n')
    result = cold_start(path)
    tables = tables_of(result)
    assert list(tables) == ["New items", "New users"]
    assert list(tables["New items"]) == [
        "random",
        "popularity from content",
        "nearest content",
        "dfmf federated, ids only",
        "dfmf federated",
    ]
    assert {"new users, first 1", "new users, first 2", "warm users"} <= set(tables["New users"])
    values = [one for rows in tables.values() for row in rows.values() for one in row.values()]
    assert all(0 <= value <= 1 for value in values)
    assert json.loads(result.file.read_text()) == json.loads(json.dumps(result.study))
    assert result.markdown == tmp_path / "docs" / "cold.md"
    text = study_markdown(result.study, "Cold start")
    assert "| dfmf federated |" in text
    assert "NO DIFFERENTIAL PRIVACY" in text


def test_training_never_meets_what_is_held_out(scenario) -> None:
    result = cold_start(scenario(*SHARES, section="\n[cold_start]\nids_only = false\n"))
    run = RunFolder(result.folder / "model")
    config = config_of(run)
    workspace = load_workspace(config)
    held = held_out(workspace.shop, config.data.split)
    assert result.study["held_out"] == {"items": int(held.items.sum()), "users": int(held.users.sum())}
    assert not held.items[workspace.histories.items].any()
    assert not workspace.histories.lengths[held.users].any()


def test_finished_runs_are_not_trained_again(scenario, monkeypatch) -> None:
    path = scenario(*SHARES)
    first = cold_start(path)
    with pytest.raises(MmfedError, match=r"holds cold_start\.json already"):
        cold_start(path)
    monkeypatch.setattr(study_module, "simulate", lambda *arguments, **options: pytest.fail("trained again"))
    assert cold_start(path, resume=True).study == first.study
    with pytest.raises(MmfedError, match=r"training\.learning_rate"):
        cold_start(path, ["training.learning_rate=0.5"], resume=True)


def test_shares_are_a_tenth_unless_given(scenario) -> None:
    result = cold_start(scenario("data.split.new_users=0.25", section="\n[cold_start]\nids_only = false\n"))
    assert [table["title"] for table in result.study["tables"]] == ["New users"]
    with pytest.raises(MmfedError) as caught:
        cold_start(scenario(), ["run.name=tenth", "data.users=1"])
    assert caught.value.code is ExitCode.DATA


@pytest.mark.parametrize(
    ("more", "section", "message"),
    [
        (("training.objective=mse",), "", "predicts ratings"),
        (SHARES, "\n[cold_start]\nfirst = [0]\n", r"cold_start\.first\.0"),
        (SHARES, "\n[cold_start]\nseeds = 3\n", r"cold_start\.seeds"),
    ],
)
def test_mistakes_are_named_before_training(scenario, more, section, message) -> None:
    with pytest.raises(MmfedError, match=message) as caught:
        cold_start(scenario(*more, section=section))
    assert caught.value.code is ExitCode.CONFIG


def test_cold_start_under_user_level_privacy_states_the_promise(scenario) -> None:
    result = cold_start(scenario(*SHARES, section="\n[cold_start]\nids_only = false\n"), ["privacy.mode=user-central"])
    assert result.study["privacy"]["epsilon"] > 0


def test_modalities_are_hidden_in_turn_with_and_without_dropout(scenario) -> None:
    result = missing_modalities(scenario(), dropout=0.3)
    tables = tables_of(result)
    assert [title.partition(" (")[2] for title in tables] == ["no modality dropout)", "modality dropout 0.3)"]
    for rows in tables.values():
        assert list(rows) == [
            "popularity",
            "nothing hidden",
            "without attributes",
            "without id",
            "attributes only",
            "id only",
        ]
        # With two modalities, all but one and the other alone are the same thing.
        assert rows["without attributes"] == rows["id only"]
        assert rows["without id"] == rows["attributes only"]


def test_a_finished_run_gives_the_same_table(scenario) -> None:
    result = missing_modalities(scenario())
    run = RunFolder(result.folder / "model")
    config = config_of(run)
    again = modalities_of_run(run, config, load_workspace(config))
    assert again.study["tables"] == result.study["tables"]
    shown = tables_of(result)["Modalities hidden at scoring (no modality dropout)"]["nothing hidden"]
    written = json.loads(run.results.read_text())["methods"][-1]["metrics"]
    assert shown["recall@10"] == written["recall@10"]["mean"]


def test_one_modality_alone_is_refused_before_training(scenario) -> None:
    with pytest.raises(MmfedError, match="reads attributes only"):
        missing_modalities(scenario("model.item_ids=false"))


def test_items_that_lack_a_modality_have_a_table_of_their_own(scenario) -> None:
    result = missing_modalities(scenario())
    run = RunFolder(result.folder / "model")
    config = config_of(run)
    workspace = load_workspace(config)
    present = np.arange(workspace.shop.catalogue.size) % 2 == 0
    lacking = replace(workspace.features.modalities["attributes"], present=present)
    features = replace(workspace.features, modalities={"attributes": lacking})
    tables = tables_of(modalities_of_run(run, config, replace(workspace, features=features)))
    (rows,) = [rows for title, rows in tables.items() if title.startswith("Items that lack")]
    lack, have = (next(name for name in rows if word in name) for word in ("lack", "have"))
    assert lack.startswith("15 items that lack attributes")
    test = workspace.split.test
    assert f"{(~present[test.items]).sum()} test interactions" in lack
    assert f"{present[test.items].sum()} test interactions" in have


@pytest.mark.slow
def test_new_movies_are_found_by_content(shared_data, tmp_path) -> None:
    path = tmp_path / "ml.toml"
    path.write_text(
        f"""
[run]
name = "ml"
folder = "{tmp_path}"
[data]
source = "movielens"
path = "{shared_data / "ml100k_posters"}"
split = {{ cold_items = 0.1 }}
[features]
modalities = ["attributes"]
[model]
item_ids = false
[privacy]
mode = "none"
[federation]
rounds = 25
[evaluation]
bootstrap = 0
"""
    )
    rows = tables_of(cold_start(path))["New items"]
    metric = "cold_start_recall_among_cold@10"
    assert 0.04 < rows["random"][metric] < 0.09
    assert rows["dfmf federated"][metric] > 2 * rows["random"][metric]
