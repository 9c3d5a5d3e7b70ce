"""Whole runs in which people say their age: training, lists, new users, and where it is refused or asked wrongly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from people_shop import people_run, write_people_shop

from mmfed.config import Config
from mmfed.data.split import held_out
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.workspace import load_workspace
from mmfed.models.band_ease import BandEase
from mmfed.models.registry import RECOMMENDERS
from mmfed.models.scoring import ModelScorer
from mmfed.records import RunFolder
from mmfed.simulation.cold_start import cold_start
from mmfed.simulation.modalities import modalities_of_run
from mmfed.simulation.person_scores import scores_for_history, scores_for_user
from mmfed.simulation.run import simulate
from mmfed.simulation.scorer import run_model
from mmfed.training.public import pretrained
from mmfed.training.teacher import taught
from mmfed.types import IntArray

WARM = ("data.split.new_users=0", "federation.rounds=15")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    write_people_shop(folder / "shop")
    return folder


@pytest.fixture(scope="module")
def trained(place: Path) -> Config:
    config = people_run(place, *WARM)
    simulate(config)
    return config


def run_of(config: Config) -> RunFolder:
    return RunFolder(config.run.folder / config.run.name)


def test_a_run_notes_how_many_answered(trained: Config) -> None:
    workspace = load_workspace(trained)
    assert "age: known of 120 of 120 users (4 values)" in workspace.notes
    assert (run_of(trained).path / "results.json").read_text().count("age: known of 120 of 120 users") == 1


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[IntArray]:
    """The answers that every scorer of the test was given."""
    given: list[IntArray] = []
    plain = ModelScorer.__init__

    def spied(self: ModelScorer, *arguments: Any, people: IntArray | None = None, **more: Any) -> None:
        given.append(np.zeros((0, 0), dtype=np.int64) if people is None else people)
        plain(self, *arguments, people=people, **more)

    monkeypatch.setattr(ModelScorer, "__init__", spied)
    return given


@pytest.mark.parametrize(
    "more",
    [
        ["federation.rounds=1", "evaluation.every=1"],
        ["federation.rounds=1", "evaluation.every=1", "one_shot.enabled=true"],
        ["federation.backend=centralised", "centralised.epochs=1"],
    ],
    ids=str,
)
def test_training_validation_and_test_read_the_answers(
    place: Path, tmp_path: Path, scored: list[IntArray], more: list[str]
) -> None:
    config = people_run(place, f"run.folder={tmp_path}", *more)
    simulate(config)
    people = load_workspace(config).people
    assert people is not None
    assert len(scored) >= 2
    assert all(np.array_equal(given, people) for given in scored)
    learned = run_model(run_of(config), config, load_workspace(config)).model.get_parameter("person_rows")
    assert (learned.abs().sum(1) > 0).all()


def test_a_study_of_new_users_reads_their_answers(place: Path, tmp_path: Path, scored: list[IntArray]) -> None:
    config = people_run(place, f"run.folder={tmp_path}", "federation.rounds=1", "run.name=cold")
    (tmp_path / "cold.toml").write_text(config.to_toml() + "\n[cold_start]\nfirst = [1]\nids_only = false\n")
    cold_start(tmp_path / "cold.toml")
    workspace = load_workspace(config)
    assert workspace.people is not None
    new = np.flatnonzero(held_out(workspace.shop, config.data.split).users)
    of_new = [given for given in scored if len(given) == len(new)]
    assert of_new
    assert all(np.array_equal(given, workspace.people[new]) for given in of_new)
    assert all(given.shape[1] == 2 for given in scored), "no scorer went without"


def test_hidden_modalities_leave_the_answers(place: Path, tmp_path: Path, scored: list[IntArray]) -> None:
    config = people_run(
        place, f"run.folder={tmp_path}", "federation.rounds=1", "run.name=hidden", 'features.modalities=["attributes"]'
    )
    simulate(config)
    scored.clear()
    people = load_workspace(config).people
    assert people is not None
    modalities_of_run(run_of(config), config, load_workspace(config))
    assert scored
    assert all(np.array_equal(given, people) for given in scored)


def test_a_list_answers_to_what_a_person_says(trained: Config) -> None:
    """The same history of somebody who says nothing gives other scores: those without the rows of the answers."""
    workspace, run = load_workspace(trained), run_of(trained)
    assert workspace.people is not None
    learned = run_model(run, trained, workspace).model
    history = workspace.shop.interactions
    for user in (0, 3, 7):
        name = str(history.user_ids[user])
        found = scores_for_user(run, trained, workspace, name).scores
        items = [workspace.shop.catalogue.item_ids[item] for item in history.items[history.rows(user)]]
        silent = scores_for_history(run, trained, workspace, items).scores
        listed = np.isfinite(found)
        expected = ModelScorer(learned, history, people=workspace.people)(np.array([user]))[0]
        np.testing.assert_allclose(found[listed], expected[listed], rtol=1e-5)
        assert np.abs(found[listed] - silent[listed]).max() > 1e-3
        assert np.array_equal(listed, np.isfinite(silent))


def test_public_pretraining_and_the_teacher_know_no_answers(place: Path) -> None:
    """What the coordinator learns from made-up histories leaves the rows at zero, and does not stumble over them."""
    workspace = load_workspace(people_run(place, 'features.modalities=["attributes"]'))
    model = workspace.new_model()
    parameters = pretrained(model, steps=2, seed=0)
    assert not parameters["person_rows"].any()
    teacher = BandEase(np.eye(model.item_count) + 0.1, ridge=2.0, history_decay=0.9)
    learned = taught(model, parameters, teacher, steps=2, seed=0)
    assert not learned["person_rows"].any()
    assert (learned["item_bias"] != parameters["item_bias"]).any()


def test_record_level_privacy_is_refused(place: Path) -> None:
    with pytest.raises(MmfedError, match=r"privacy\.mode = 'record' has no place for data\.people") as caught:
        load_workspace(people_run(place, "privacy.mode=record"))
    assert caught.value.code == ExitCode.CONFIG
    assert load_workspace(people_run(place, "privacy.mode=record", asked=False)).people is None


@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_a_model_that_asks_nothing_is_the_same_as_ever(place: Path, name: str) -> None:
    asked, unasked = (
        load_workspace(people_run(place, f"model.name={name}", asked=asked)).new_model().state_dict()
        for asked in (True, False)
    )
    assert asked.pop("person_rows").shape == (6, 16)
    assert list(asked) == list(unasked)
    assert all(asked[key].equal(value) for key, value in unasked.items())


def test_a_simulation_proposes_values(tmp_path: Path) -> None:
    write_people_shop(tmp_path / "shop")
    with pytest.raises(MmfedError) as caught:
        simulate(people_run(tmp_path, "data.people.region=[]"))
    assert caught.value.code == ExitCode.CONFIG
    assert "data.people.region lists no values" in caught.value.message
    assert 'data.people.region = ["north", "south"]' in caught.value.fix
    assert "simulated people" in caught.value.fix
    with pytest.raises(MmfedError, match=r"data\.people\.age lists no values") as caught:
        simulate(people_run(tmp_path, "data.people.age=[]"))
    assert "data.people.age = [" in caught.value.fix
    with pytest.raises(MmfedError, match=r"data\.people\.income lists no values"):
        simulate(people_run(tmp_path, "data.people.income=[]"))


def test_a_simulation_without_answers_is_refused(tmp_path: Path) -> None:
    write_people_shop(tmp_path / "shop")
    (tmp_path / "shop" / "people.csv").unlink()
    with pytest.raises(MmfedError, match="asks for age, region, and no user gives an answer") as caught:
        simulate(people_run(tmp_path))
    assert "people.csv" in caught.value.fix
