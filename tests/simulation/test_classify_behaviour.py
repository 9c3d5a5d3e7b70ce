"""All behaviour classifiers on the demo shop: the cut in time, what the figures show, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmfed.config import SplitSection, build_config
from mmfed.data.demo import load_demo
from mmfed.data.schema import Action
from mmfed.errors import ExitCode, MmfedError
from mmfed.simulation.behaviour import METHODS, BehaviourResult, behaviour_split, classify_behaviour

for module in ("sklearn", "imblearn", "xgboost"):
    pytest.importorskip(module)


SMALL = ("privacy.mode=none", "data.users=80", "evaluation.bootstrap=50", "federation.nodes=4")


@pytest.fixture(scope="module")
def demo() -> BehaviourResult:
    methods = tuple(replace(method, trees=min(method.trees, 8)) for method in METHODS)
    return classify_behaviour(build_config({}, SMALL), methods=methods, boosting_rounds=6)


def test_figures_of_the_demo_shop(demo: BehaviourResult) -> None:
    assert demo.classes == ("view", "cart", "buy")
    rows = {row.name: row for row in demo.rows}
    assert len(rows) == len(METHODS) + 1
    chance = rows["most frequent action"].metrics["balanced_accuracy"].mean
    assert chance == pytest.approx(1 / 3)
    plain = rows["XGBoost"].metrics
    for name, row in rows.items():
        if name in ("most frequent action", "frequencies by last action", "XGBoost"):
            continue
        assert row.metrics["balanced_accuracy"].mean > chance + 0.1, name
        assert row.metrics["recall/buy"].mean > plain["recall/buy"].mean, name
        low, high = row.metrics["accuracy"].low, row.metrics["accuracy"].high
        assert low is not None
        assert high is not None
        assert low < row.metrics["accuracy"].mean < high


def test_every_row_and_the_whole_say_that_nothing_is_promised(demo: BehaviourResult) -> None:
    tree = demo.to_json()
    assert {tree["privacy"], *(row["privacy"] for row in tree["methods"])} == {"no differential privacy"}
    assert any("no differential privacy" in note for note in tree["notes"])


def test_resampling_shows_what_one_record_becomes(demo: BehaviourResult) -> None:
    rows = {row.name: row for row in demo.rows}
    assert rows["XGBoost"].multiplicity is None
    assert (rows["XGBoost + over-sampling"].multiplicity or 0) > 4
    assert rows["XGBoost + over-sampling on each device, at most 4 copies"].multiplicity == 4
    assert rows["XGBoost + under-sampling"].multiplicity == 1
    assert rows["XGBoost + SMOTE"].contribution is None  # its synthetic rows belong to nobody


@pytest.mark.parametrize("kind", ["leave-last-out", "ratio", "global-time"])
def test_training_rows_come_before_test_rows(kind) -> None:
    shop = load_demo(80, 0)
    train, test, description = behaviour_split(shop, SplitSection(kind=kind, validation=0.1, test=0.2))
    assert description.startswith("global-time" if kind == "global-time" else "ratio")
    times = shop.interactions.times
    for user in np.unique(test.groups):
        mine = train.places[train.groups == user]
        assert not len(mine) or mine.max() < test.places[test.groups == user].min()
    if kind == "global-time":
        assert times[train.places].max() <= times[test.places].min()
    assert len(np.intersect1d(train.places, test.places)) == 0
    assert len(train) + len(test) == len(shop.interactions) - shop.interactions.user_count


def test_popularity_is_counted_before_the_cut_only() -> None:
    shop = load_demo(80, 0)
    section = SplitSection(kind="ratio", validation=0.0, test=0.2)
    train, test, _ = behaviour_split(shop, section)
    rows = shop.interactions
    late = np.zeros(len(rows), dtype=bool)
    late[test.places] = True
    other = replace(shop, interactions=replace(rows, items=np.where(late, 0, rows.items).astype(np.int32)))
    again, _, _ = behaviour_split(other, section)
    assert np.array_equal(again.values, train.values)


def test_a_promise_of_privacy_is_not_made() -> None:
    for mode in ("user-central", "record"):
        with pytest.raises(MmfedError, match="no differential privacy") as caught:
            classify_behaviour(build_config({}, [f"privacy.mode={mode}"]))
        assert caught.value.code is ExitCode.PRIVACY


def test_a_shop_with_one_action_is_refused() -> None:
    shop = load_demo(30, 0)
    rows = shop.interactions
    views = replace(shop, interactions=replace(rows, actions=np.full(len(rows), Action.VIEW, dtype=np.int8)))
    with pytest.raises(MmfedError, match="nothing to tell apart"):
        behaviour_split(views, SplitSection())


def test_more_nodes_than_users_are_refused() -> None:
    with pytest.raises(MmfedError, match="some nodes would hold nobody"):
        classify_behaviour(
            build_config({}, ["privacy.mode=none", "data.users=20", "federation.nodes=21"]), methods=METHODS[:1]
        )
