"""Lists re-ranked away from popular items: what the discount does, against a second computation of it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from tiny_shop import ITEMS, tiny_run, write_tiny_shop

from mmfed.config import Config, build_config
from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.ranking import RankingResult
from mmfed.federated.one_shot import load_one_shot
from mmfed.federated.workspace import Workspace, load_workspace
from mmfed.models.scoring import ModelScorer
from mmfed.records import RunFolder
from mmfed.simulation.recommend import recommend_for_user
from mmfed.simulation.run import RunResult, evaluate_run, simulate
from mmfed.simulation.scorer import run_model

PEOPLE = 60
DISCOUNTS = (0.0, 0.3, 1.0, 3.0)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some items are bought ten times as often as others, and every third has a public of its own."""
    folder = tmp_path_factory.mktemp("discount")
    write_tiny_shop(folder / "shop")
    with open(folder / "shop" / "interactions.csv", "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["user", "item", "time", "action"])
        for user in range(PEOPLE):
            weights = (1.0 + 4.0 * (np.arange(ITEMS) % 3 == user % 3)) / (1.0 + np.arange(ITEMS))
            chosen = np.random.default_rng(user).choice(ITEMS, 8, replace=False, p=weights / weights.sum())
            out.writerows([f"u{user}", f"i{item}", 1_700_000_000 + step, "buy"] for step, item in enumerate(chosen))
    return folder


def trained(shop: Path, folder: Path, *more: str) -> Config:
    small = (
        "privacy.mode=none",
        "training.pretraining=0",
        "federation.rounds=15",
        "evaluation.every=5",
        "evaluation.k=[3, 10]",
        f"run.folder={folder}",
    )
    config = tiny_run(shop, *small, *more)
    simulate(config)
    return config


@pytest.fixture(scope="module")
def alone(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return trained(shop, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def beside(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The same with band-EASE beside the model."""
    return trained(shop, tmp_path_factory.mktemp("beside"), "one_shot.enabled=true", "one_shot.ensemble=0.5")


@pytest.fixture(params=["alone", "beside"])
def config(request: pytest.FixtureRequest) -> Config:
    return request.getfixturevalue(request.param)


def discounted(config: Config, discount: float) -> Config:
    return config.model_copy(
        update={"evaluation": config.evaluation.model_copy(update={"popularity_discount": discount})}
    )


def run_of(config: Config) -> RunFolder:
    return RunFolder(config.run.folder / config.run.name)


def evaluated(config: Config, discount: float) -> RunResult:
    changed = discounted(config, discount)
    return evaluate_run(run_of(config), changed, load_workspace(changed))


def lists_of(result: RankingResult) -> np.ndarray:
    assert result.lists is not None
    return result.lists[:, :10]


def standard(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float64)
    return np.array([(row - row.mean()) / row.std() for row in rows])


def by_hand(config: Config, workspace: Workspace, discount: float) -> np.ndarray:
    """[users, items] z(model) + w · z(band-EASE), standardised again, less the discount times z(popularity)."""
    learned = run_model(run_of(config), config, workspace)
    history, users = workspace.split.before_test, np.arange(PEOPLE)
    scores = standard(ModelScorer(learned.model, history)(users))
    popularity = learned.model.item_tables().bias.detach().double().numpy()
    if learned.beside is not None:
        scores = standard(scores + 0.5 * standard(learned.beside.score(history, users)))
        popularity = np.log(1.0 + np.diag(load_one_shot(run_of(config)).cooccurrence))
    return scores - discount * standard(popularity[None])[0]


def test_nothing_changes_at_zero(config: Config) -> None:
    default, zero = simulate(config, resume=True), evaluated(config, 0.0)
    assert config.evaluation.popularity_discount == 0.0
    assert zero.results == default.results
    assert np.array_equal(lists_of(zero.federated.result), lists_of(default.federated.result))


def test_at_zero_the_models_scores_are_left_as_they_are(alone: Config) -> None:
    workspace = load_workspace(alone)
    learned = run_model(run_of(alone), alone, workspace)
    history, users = workspace.split.before_test, np.arange(PEOPLE)
    assert not learned.discounted
    assert np.array_equal(learned.scorer(history)(users), ModelScorer(learned.model, history)(users))


@pytest.mark.parametrize("discount", DISCOUNTS[1:])
def test_lists_are_those_of_a_direct_computation(config: Config, discount: float) -> None:
    changed = discounted(config, discount)
    workspace = load_workspace(changed)
    scores = by_hand(changed, workspace, discount)
    found = run_model(run_of(config), changed, workspace).scorer(workspace.split.before_test)(np.arange(PEOPLE))
    np.testing.assert_allclose(found, scores, atol=1e-4)
    result = evaluated(config, discount).federated.result
    for row, user in enumerate(result.evaluated_users):
        known = workspace.split.before_test.items[workspace.split.before_test.rows(int(user))]
        mine = scores[user].copy()
        mine[known] = -np.inf
        listed = lists_of(result)[row]
        assert not np.isin(listed, known).any()
        assert (np.diff(mine[listed]) < 1e-4).all(), "best first"
        assert mine[np.setdiff1d(np.arange(ITEMS), listed)].max() < mine[listed].min() + 1e-4


def test_the_larger_the_less_popular_and_the_more_of_the_catalogue(config: Config) -> None:
    counts = np.bincount(load_workspace(config).split.train.items, minlength=ITEMS)
    results = [evaluated(config, discount).federated.result for discount in DISCOUNTS]
    popularity = [float(counts[lists_of(result)[:, :3]].mean()) for result in results]
    assert popularity == sorted(popularity, reverse=True)
    assert popularity[-1] < 0.8 * popularity[0]
    assert popularity == pytest.approx([result["arp@3"] for result in results])
    # A little spreads the lists; a lot gives everybody the same unpopular items.
    assert results[1]["catalogue_coverage@3"] > results[0]["catalogue_coverage@3"]
    assert results[1]["gini@3"] < results[0]["gini@3"], "recommendations are spread more evenly"


def test_baselines_and_the_choice_of_the_round_are_untouched(config: Config) -> None:
    plain, other = evaluated(config, 0.0).results, evaluated(config, 3.0).results
    assert other["methods"][:-1] == plain["methods"][:-1]
    assert other["methods"][-1] != plain["methods"][-1]
    assert (other["round"], other["ensemble"]) == (plain["round"], plain["ensemble"])


def test_a_list_for_one_person_is_discounted_too(config: Config) -> None:
    changed = discounted(config, 1.0)
    workspace = load_workspace(changed)
    told = recommend_for_user(run_of(config), changed, workspace, "u3", k=5)
    plain = recommend_for_user(run_of(config), config, load_workspace(config), "u3", k=5)
    counts = np.bincount(workspace.split.train.items, minlength=ITEMS)
    ids = list(workspace.shop.catalogue.item_ids)
    mine, theirs = (np.mean([counts[ids.index(item.item)] for item in one.items]) for one in (told, plain))
    assert mine < theirs


@pytest.mark.parametrize("value", ["-0.1", "nan", "inf", "much", "[1]"])
def test_a_bad_value_is_refused(value: str) -> None:
    with pytest.raises(MmfedError, match=r"evaluation\.popularity_discount") as fault:
        build_config({}, [f"evaluation.popularity_discount={value}"])
    assert fault.value.code is ExitCode.CONFIG
