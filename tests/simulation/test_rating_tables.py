"""The ratings table of a comparison: every figure again, from the rows of the shop's own file."""

from __future__ import annotations

import csv
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from tiny_shop import ITEMS, tiny_run, write_tiny_shop

from mmfed.config import load_config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.workspace import load_workspace
from mmfed.models.baselines.ratings import DAMPING, DampedMeans, GlobalMean
from mmfed.records import RunFolder, read_lines
from mmfed.reports.compare_report import comparison_markdown
from mmfed.simulation.compare import CompareResult, compare
from mmfed.simulation.run import simulate
from mmfed.simulation.scorer import run_model

USERS = 24
METRICS = {"mse", "rmse", "mae", "pcc"}
COMPARE = """
[compare]
seeds = [0, 1]
baselines = []
[[compare.methods]]
name = "federated"
set = { "privacy.mode" = "none" }
[[compare.methods]]
name = "private"
set = { "privacy.mode" = "user-central" }
[[compare.methods]]
name = "pooled"
set = { "privacy.mode" = "none", "federation.backend" = "centralised", "centralised.epochs" = 3 }
"""


class Row(NamedTuple):
    """One line of the shop's file; ``stars`` is NaN where nothing was rated."""

    user: int
    item: int
    stars: float


def rows() -> list[Row]:
    """Each person's rows in time order; kind and strict people, good and bad items, every fifth unrated."""
    made = []
    for user in range(USERS):
        generator = np.random.default_rng(user)
        for number, item in enumerate(generator.permutation(ITEMS)[: 5 + user % 4]):
            stars = np.clip(round(3 + (user % 3 - 1) + (item % 3 - 1) + generator.normal() / 2), 1, 5)
            made.append(Row(user, int(item), math.nan if (user + number) % 5 == 0 else float(stars)))
    return made


ROWS = rows()
BY_USER = [[row for row in ROWS if row.user == user] for user in range(USERS)]
TRAIN = [row for own in BY_USER for row in own[:-2]]
BEFORE_TEST = [row for own in BY_USER for row in own[:-1]]
TEST = [own[-1] for own in BY_USER if not math.isnan(own[-1].stars)]
ACTUAL = np.array([row.stars for row in TEST])


def rated(some: list[Row]) -> list[Row]:
    return [row for row in some if not math.isnan(row.stars)]


def global_mean() -> float:
    return sum(row.stars for row in rated(TRAIN)) / len(rated(TRAIN))


def damped_means() -> dict[tuple[int, int], float]:
    """Predictions for the test rows, by the formula: mean + b_item + b_user, sums over counts plus five."""
    mean = global_mean()
    sums, counts = defaultdict(float), defaultdict(int)
    for row in rated(TRAIN):
        sums[row.item] += row.stars - mean
        counts[row.item] += 1
    item = {i: sums[i] / (counts[i] + 5.0) for i in range(ITEMS)}
    found = {}
    for row in TEST:
        left = [one.stars - mean - item[one.item] for one in rated(BEFORE_TEST) if one.user == row.user]
        found[row.user, row.item] = mean + item[row.item] + sum(left) / (len(left) + 5.0)
    return found


def figures(predicted: np.ndarray) -> dict[str, float]:
    errors = predicted - ACTUAL
    mse = float(errors @ errors) / len(errors)
    p, a = predicted - predicted.mean(), ACTUAL - ACTUAL.mean()
    pcc = float(p @ a) / math.sqrt(float(p @ p) * float(a @ a)) if np.ptp(predicted) else math.nan
    return {"mse": mse, "rmse": math.sqrt(mse), "mae": float(np.abs(errors).sum()) / len(errors), "pcc": pcc}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ratings")
    write_tiny_shop(folder / "shop")
    with open(folder / "shop" / "interactions.csv", "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["user", "item", "time", "action", "value"])
        for number, row in enumerate(ROWS):
            unrated = math.isnan(row.stars)
            action, value = ("view", "") if unrated else ("rate", row.stars)
            out.writerow([f"u{row.user}", f"i{row.item}", 1_700_000_000 + number, action, value])
    return folder


def rating_run(shop: Path, folder: Path, *more: str):
    small = ("training.objective=mse", "federation.rounds=3", "training.pretraining=2", f"run.folder={folder / 'runs'}")
    return tiny_run(shop, *small, *more)


@pytest.fixture(scope="module")
def compared(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> CompareResult:
    folder = tmp_path_factory.mktemp("compared")
    path = folder / "scenario.toml"
    path.write_text(rating_run(shop, folder, "run.name=table").to_toml() + COMPARE, encoding="utf-8")
    return compare(path)


@pytest.fixture(scope="module")
def table(compared: CompareResult) -> dict[str, dict]:
    return {row["name"]: row for row in compared.comparison["ratings"]}


def same(found: dict, expected: dict[str, float]) -> bool:
    return all(found[name]["mean"] == pytest.approx(value, rel=1e-5) for name, value in expected.items())


def test_ratings_stand_in_a_table_of_their_own(compared, table):
    assert compared.comparison["methods"] == []
    assert list(table) == ["federated", "private", "pooled", "global mean", "item and user means"]
    assert all(set(row["metrics"]) == METRICS for row in table.values())
    assert all(row["users"] == len(TEST) and row["users_left_out"] == USERS - len(TEST) for row in table.values())
    assert 0 < len(TEST) < USERS, "the shop has people whose last row has no rating"


def test_the_global_mean_by_hand(table):
    found, expected = table["global mean"]["metrics"], figures(np.full(len(TEST), global_mean()))
    assert same(found, {name: expected[name] for name in ("mse", "rmse", "mae")})
    assert found["pcc"]["mean"] is None
    assert found["pcc"]["reason"] == "every prediction is the same"


def test_item_and_user_means_by_hand(table):
    found = damped_means()
    assert DAMPING == 5.0
    assert same(table["item and user means"]["metrics"], figures(np.array([found[row.user, row.item] for row in TEST])))


@pytest.mark.parametrize("name", ["federated", "private", "pooled"])
def test_a_methods_figures_are_those_of_its_own_predictions(compared, table, name):
    """The mean over the seeds of MSE and correlation, from what each seed's model predicts for the test rows."""
    by_seed = []
    for seed in (0, 1):
        run = RunFolder(compared.folder / f"{name}-seed{seed}")
        config = load_config(run.config)
        workspace = load_workspace(config)
        items = {item: index for index, item in enumerate(workspace.shop.catalogue.item_ids)}
        people = [str(user) for user in workspace.shop.interactions.user_ids]
        scorer = run_model(run, config, workspace).scorer(workspace.split.before_test)
        predicted = [
            scorer.ratings(np.array([people.index(f"u{row.user}")]), np.array([items[f"i{row.item}"]]))[0]
            for row in TEST
        ]
        assert all(1.0 <= one <= 5.0 for one in predicted)
        by_seed.append(figures(np.array(predicted)))
    expected = {metric: sum(one[metric] for one in by_seed) / 2 for metric in METRICS}
    assert same(table[name]["metrics"], expected)
    assert by_seed[0]["mse"] != pytest.approx(by_seed[1]["mse"], rel=1e-6), "seeds differ"


def test_intervals_hold_their_figure(table):
    for row in table.values():
        for name, one in row["metrics"].items():
            if one["mean"] is not None:
                assert one["low"] < one["mean"] < one["high"], (row["name"], name)


def test_rows_say_what_they_promise(table):
    assert table["private"]["privacy"]["epsilon"] > 0
    assert table["federated"]["privacy"]["epsilon"] is None
    assert [table[name]["federated"] for name in table] == [True, True, False, False, False]
    assert table["pooled"]["privacy"] is None


def test_the_markdown_shows_the_same_figures(compared, table):
    shown = comparison_markdown(compared.comparison)
    for name, row in table.items():
        line = next(line for line in shown.splitlines() if re.match(rf"\| \W*{re.escape(name)}", line))
        value = row["metrics"]["mse"]["mean"]
        assert any(f"{value:.{digits}f}" in line for digits in (2, 3, 4)), line


def test_a_rating_run_measures_and_chooses_by_mse(shop, tmp_path):
    config = rating_run(shop, tmp_path, "privacy.mode=none", "federation.rounds=6", "evaluation.every=1")
    result = simulate(config)
    methods = {row["name"]: row["metrics"] for row in result.results["methods"]}
    assert list(methods) == ["global mean", "item and user means", "dfmf federated"]
    assert same(methods["global mean"], {"mse": figures(np.full(len(TEST), global_mean()))["mse"]})
    records = read_lines(config.run.folder / config.run.name / "metrics.jsonl")
    values = [record["validation"]["mse"] for record in records]
    assert result.results["round"] == int(np.argmin(values)) + 1


def test_a_trained_model_beats_the_global_mean(shop, tmp_path):
    gentle = "federation.server_optimiser.learning_rate=0.005"
    config = rating_run(shop, tmp_path, "privacy.mode=none", "federation.rounds=30", "evaluation.every=10", gentle)
    metrics = {row["name"]: row["metrics"] for row in simulate(config).results["methods"]}
    assert metrics["dfmf federated"]["mse"]["mean"] < 0.8 * metrics["global mean"]["mse"]["mean"]
    assert metrics["dfmf federated"]["pcc"]["mean"] > 0.5


def test_what_was_paid_is_no_rating(tmp_path):
    """The shop with a purchase for 249.90 in place of every unrated row."""
    write_tiny_shop(tmp_path / "shop")
    lines = ["user,item,time,action,value"]
    for number, row in enumerate(ROWS):
        action, value = ("buy", 249.9) if math.isnan(row.stars) else ("rate", row.stars)
        lines.append(f"u{row.user},i{row.item},{1_700_000_000 + number},{action},{value}")
    (tmp_path / "shop" / "interactions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    workspace = load_workspace(rating_run(tmp_path, tmp_path, "privacy.mode=none"))
    values = workspace.shop.interactions.values
    assert int(np.isfinite(values).sum()) == len(rated(ROWS))
    assert GlobalMean().fit(workspace.split.train)._mean == pytest.approx(global_mean(), rel=1e-6)
    assert workspace.histories.values is not None
    assert np.nanmax(workspace.histories.values) <= 5.0


def test_a_shop_without_ratings_is_refused(tmp_path):
    write_tiny_shop(tmp_path / "shop")
    with pytest.raises(MmfedError, match="no test interaction has a rating") as fault:
        simulate(rating_run(tmp_path, tmp_path, "privacy.mode=none", "federation.rounds=1"))
    assert fault.value.code is ExitCode.DATA


class TestBaselinesAlone:
    """Users and items that nobody rated, and people without a history."""

    def test_unknown_users_and_items_get_the_mean(self, shop, tmp_path):
        split = load_workspace(rating_run(shop, tmp_path)).split
        empty = split.before_test.keep_rows(np.zeros(len(split.before_test), dtype=bool))
        unseen = np.setdiff1d(np.arange(ITEMS), split.train.items[np.isfinite(split.train.values)])
        mean = float(np.nanmean(split.train.values.astype(np.float64)))
        for kind in (GlobalMean, DampedMeans):
            fitted = kind().fit(split.train)
            seen = fitted.predict(empty, np.arange(3), np.full(3, int(split.train.items[0])))
            assert len(set(seen)) == 1, "without a history all people are alike"
            for item in unseen:
                assert fitted.predict(empty, np.array([0]), np.array([item]))[0] == pytest.approx(mean, rel=1e-6)

    def test_a_later_rating_of_the_user_counts_and_the_item_means_stay(self, shop, tmp_path):
        split = load_workspace(rating_run(shop, tmp_path)).split
        fitted = DampedMeans().fit(split.train)
        users, items = np.arange(USERS), np.zeros(USERS, dtype=np.int64)
        less, more = (fitted.predict(history, users, items) for history in (split.train, split.before_test))
        newly = np.array(
            [np.isfinite(split.validation.values[split.validation.rows(user)]).any() for user in range(USERS)]
        )
        assert np.array_equal(less != more, newly)

    def test_without_any_rating_the_mean_is_finite(self, shop, tmp_path):
        train = load_workspace(rating_run(shop, tmp_path)).split.train
        unrated = train.keep_rows(~np.isfinite(train.values))
        for kind in (GlobalMean, DampedMeans):
            assert np.isfinite(kind().fit(unrated).predict(unrated, np.array([0]), np.array([0]))).all()
