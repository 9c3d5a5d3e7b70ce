"""Federated boosting: the sum of the nodes' trees, who refuses, and replies that are no trees."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from mmfed.data.behaviour import BehaviourTable
from mmfed.data.schema import Action
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.boosting import CheckedBagging, boosted_classifier, client_app, grow_tree, server_app
from mmfed.federated.boosting_check import model_fault, reply_fault
from mmfed.federated.boosting_plan import BoostingPlan
from mmfed.simulation.inprocess import InProcessGrid

xgboost = pytest.importorskip("xgboost")

PLAN = BoostingPlan(classes=3, columns=3, nodes=3, rounds=4, depth=3)
CONFIG = ConfigRecord({"plan": json.dumps(asdict(PLAN))})


def table(rows: int = 240, seed: int = 0) -> BehaviourTable:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(rows, 3))
    return BehaviourTable(
        values=values,
        names=("a", "b", "c"),
        levels=np.zeros(3, dtype=int),
        labels=(values[:, 0] > 0).astype(int) + (values[:, 1] > 0.8),
        classes=(Action.VIEW, Action.CART, Action.BUY),
        groups=np.arange(rows) % 12,
        places=np.arange(rows),
    )


WHOLE = table()


def share(node: int) -> BehaviourTable:
    return WHOLE.keep(WHOLE.groups % 3 == node)


def of_node(context: Context) -> BehaviourTable:
    return share(int(context.node_config["partition-id"]))


def federate(folder: Path, app: ClientApp, plan: BoostingPlan = PLAN) -> bytes:
    models: list[bytes] = []
    grid = InProcessGrid(app, nodes=plan.nodes, state_folder=folder)
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
    server_app(plan, models.append)(grid, context)
    return models[0]


def reply(tree: bytes, examples: Any = 5) -> RecordDict:
    arrays = ArrayRecord([np.frombuffer(tree, dtype=np.uint8)])
    return RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": examples})})


def answering(answers: dict[int, Callable[[Message], Message]]) -> ClientApp:
    """Nodes (0, 1, ...) of ``answers`` answer with these, the others honestly."""
    honest, app = client_app(of_node), ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        answer = answers.get(int(context.node_config["partition-id"]))
        return honest(message, context) if answer is None else answer(message)

    return app


def test_the_federation_learns_and_repeats_to_the_byte(tmp_path: Path) -> None:
    model = federate(tmp_path, client_app(of_node))
    assert federate(tmp_path, client_app(of_node)) == model
    assert model_fault(model, PLAN) is None
    assert len(json.loads(model)["learner"]["gradient_booster"]["model"]["trees"]) == PLAN.nodes * PLAN.rounds
    test = table(seed=1)
    right = boosted_classifier(model, test).probabilities(test.values).argmax(axis=1) == test.labels
    assert min(right[test.labels == label].mean() for label in range(3)) > 0.8


def test_scores_are_the_sum_of_the_nodes_own_trees() -> None:
    """One round by hand: the merged margin is that of every tree, added up."""
    trees = [grow_tree(b"", share(node), PLAN) for node in range(3)]
    rows = xgboost.DMatrix(WHOLE.values.astype(np.float32))

    def margin(model: bytes) -> np.ndarray:
        booster = xgboost.Booster()
        booster.load_model(bytearray(model))
        return booster.predict(rows, output_margin=True)

    from flwr.serverapp.strategy.strategy_utils import aggregate_bagging

    merged = b""
    for tree in trees:
        merged = aggregate_bagging(merged, tree)
    assert model_fault(merged, PLAN) is None
    assert margin(merged) - 0.5 == pytest.approx(sum(margin(tree) - 0.5 for tree in trees), abs=1e-5)


def test_one_node_is_plain_boosting() -> None:
    plan = BoostingPlan(classes=3, columns=3, nodes=1, rounds=3, depth=3, balanced=False)
    from flwr.serverapp.strategy.strategy_utils import aggregate_bagging

    model = b""
    for _ in range(3):
        model = aggregate_bagging(model, grow_tree(model, WHOLE, plan))
    rows = xgboost.DMatrix(WHOLE.values.astype(np.float32), label=WHOLE.labels)
    plain = xgboost.train(plan.parameters(), rows, 3)
    assert boosted_classifier(model, WHOLE).probabilities(WHOLE.values) == pytest.approx(plain.predict(rows), abs=1e-5)


def test_nodes_that_hold_the_same_rows_are_as_one(tmp_path: Path) -> None:
    """Three trees alike, each at a third of the learning rate, are one tree."""
    three = federate(tmp_path, client_app(lambda context: WHOLE))
    one = federate(tmp_path, client_app(lambda context: WHOLE), replace(PLAN, nodes=1))
    assert boosted_classifier(three, WHOLE).probabilities(WHOLE.values) == pytest.approx(
        boosted_classifier(one, WHOLE).probabilities(WHOLE.values), abs=1e-4
    )


def test_class_weights_lift_the_rare_class() -> None:
    labels = np.random.default_rng(1).choice(3, size=240, p=[0.7, 0.2, 0.1])
    chance, plan = replace(WHOLE, labels=labels), replace(PLAN, nodes=1, learning_rate=1.0, depth=1)
    balanced, plain = (
        boosted_classifier(grow_tree(b"", chance, replace(plan, balanced=choice)), chance).probabilities(chance.values)
        for choice in (True, False)
    )
    assert balanced[:, 2].mean() == pytest.approx(1 / 3, abs=0.03)
    assert plain[:, 2].mean() < 0.25


def test_order_and_repetition_of_replies_change_nothing() -> None:
    def answers() -> list[Message]:
        grid = InProcessGrid(client_app(of_node), nodes=3, state_folder=Path())
        start = RecordDict({"arrays": ArrayRecord([np.zeros(0, dtype=np.uint8)]), "config": CONFIG})
        return list(grid.send_and_receive([grid.create_message(start, "train", node, "1") for node in (1, 2, 3)]))

    def merged(replies: list[Message]) -> bytes:
        strategy = CheckedBagging(PLAN)
        strategy.current_bst = b""
        arrays, _ = strategy.aggregate_train(1, replies)
        assert arrays is not None
        return arrays["0"].numpy().tobytes()

    replies = answers()
    assert merged(replies[::-1]) == merged(replies) == merged([*replies, replies[1]])


def test_the_round_goes_on_without_a_node_that_fails_or_cheats(tmp_path: Path) -> None:
    def empty(context: Context) -> BehaviourTable:
        rows = of_node(context)
        return rows.keep(np.zeros(len(rows), dtype=bool)) if context.node_config["partition-id"] == 1 else rows

    assert federate(tmp_path, client_app(empty))
    cheating = answering({0: lambda message: Message(reply(b"{}"), reply_to=message)})
    model = federate(tmp_path, cheating)
    assert len(json.loads(model)["learner"]["gradient_booster"]["model"]["trees"]) == 2 * PLAN.rounds


def test_nobody_left_stops_the_run(tmp_path: Path) -> None:
    app = answering(dict.fromkeys(range(3), lambda message: Message(reply(b"[1]"), reply_to=message)))
    with pytest.raises(MmfedError, match=r"no node grew a tree.*nodes 1, 2, 3: not a readable tree") as caught:
        federate(tmp_path, app)
    assert caught.value.code is ExitCode.FEDERATION


def test_a_device_that_demands_privacy_refuses(tmp_path: Path) -> None:
    asked: list[Context] = []

    def load(context: Context) -> BehaviourTable:
        asked.append(context)
        return share(0)

    grid = InProcessGrid(client_app(load), nodes=3, state_folder=tmp_path)
    for context in grid._contexts.values():
        context.node_config["require-privacy"] = "user-central,record"
    with pytest.raises(MmfedError, match="accepts privacy modes user-central, record; the coordinator offers none"):
        server_app(PLAN, lambda model: None)(grid, Context(1, 0, {}, RecordDict(), {}))
    assert not asked  # its rows were not even read


TREE = grow_tree(b"", share(0), PLAN)


def tampered(change: Callable[[dict[str, Any]], object]) -> bytes:
    tree = json.loads(TREE)
    change(tree["learner"])
    return json.dumps(tree).encode()


def in_tree(name: str, place: int, value: object) -> Callable[[dict[str, Any]], object]:
    def change(learner: dict[str, Any]) -> None:
        learner["gradient_booster"]["model"]["trees"][0][name][place] = value

    return change


def in_model(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda learner: learner["gradient_booster"]["model"].__setitem__(name, value)


def in_shape(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda learner: learner["learner_model_param"].__setitem__(name, value)


def loop(learner: dict[str, Any]) -> None:
    """Root and node 1 exchange a child: node 1 becomes its own child, out of the root's reach."""
    tree = learner["gradient_booster"]["model"]["trees"][0]
    left, parents = tree["left_children"], tree["parents"]
    left[0], left[1] = left[1], left[0]
    parents[left[0]], parents[left[1]] = 0, 1


def test_an_honest_tree_passes() -> None:
    assert reply_fault(reply(TREE), PLAN) is None


@pytest.mark.parametrize(
    "change",
    [
        loop,
        in_tree("left_children", 0, 10**6),
        in_tree("left_children", 0, 0),
        in_tree("left_children", 1, 0),
        in_tree("left_children", 0, -7),
        in_tree("left_children", 0, 1.0),
        in_tree("left_children", 0, True),
        in_tree("right_children", -1, 99),
        in_tree("parents", 1, 5),
        in_tree("split_indices", 0, 3),
        in_tree("split_indices", 0, -1),
        in_tree("split_indices", 0, 2**70),
        in_tree("split_type", 0, 1),
        in_tree("leaf_weights", 0, float("nan")),
        in_tree("leaf_weights", 0, 1e9),
        in_tree("base_weights", 0, None),
        in_tree("split_conditions", 0, float("inf")),
        lambda learner: learner["gradient_booster"]["model"]["trees"][0]["leaf_weights"].pop(),
        lambda learner: learner["gradient_booster"]["model"]["trees"][0]["categories"].append(1),
        lambda learner: learner["gradient_booster"]["model"]["trees"][0]["tree_param"].update(num_nodes="3"),
        lambda learner: learner["gradient_booster"]["model"]["trees"].append(
            learner["gradient_booster"]["model"]["trees"][0]
        ),
        in_model("tree_info", [1]),
        in_model("iteration_indptr", [0, 2]),
        in_model("gbtree_model_param", {"num_trees": "1", "num_parallel_tree": "7"}),
        in_shape("num_class", "4"),
        in_shape("num_feature", "30"),
        in_shape("base_score", "[9E9,5E-1,5E-1]"),
        lambda learner: learner["attributes"].update(best_iteration="0"),
        lambda learner: learner["objective"].update(name="reg:squarederror"),
        lambda learner: learner["gradient_booster"].update(name="dart"),
        lambda learner: learner.clear(),
    ],
)
def test_tampered_trees_are_refused_by_both_sides(change: Callable[[dict[str, Any]], object]) -> None:
    bad = tampered(change)
    assert reply_fault(reply(bad), PLAN) is not None
    assert model_fault(bad, PLAN) is not None


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"arrays": ArrayRecord(), "metrics": MetricRecord({"num-examples": 1})}),
        RecordDict({"arrays": MetricRecord(), "metrics": MetricRecord()}),
        reply(TREE, examples=0),
        reply(TREE, examples=1.5),
        reply(TREE, examples=[1]),
        reply(b""),
        reply(b"\xff\xfe"),
        reply(b"[" * 100_000),
        reply(b" " * 2_000_001),
    ],
)
def test_other_records_are_refused(content: RecordDict) -> None:
    assert reply_fault(content, PLAN) is not None


@pytest.mark.parametrize(
    ("plan", "arrays"),
    [
        (None, b""),
        ("{}", b""),
        ('{"classes": 3, "columns": 3, "nodes": "x"}', b""),
        ('{"classes": 3, "columns": 3, "nodes": 1, "learning_rate": NaN}', b""),
        ('{"classes": 3, "columns": 3, "nodes": 1, "depth": 40}', b""),
        ('{"classes": 30, "columns": 3, "nodes": 1}', b""),
        ('{"classes": 3, "columns": 3, "nodes": 1}', b"not a model"),
    ],
)
def test_a_node_refuses_a_bad_coordinator(tmp_path: Path, plan: str | None, arrays: bytes) -> None:
    grid = InProcessGrid(client_app(of_node), nodes=3, state_folder=tmp_path)
    config = ConfigRecord({} if plan is None else {"plan": plan})
    content = RecordDict({"arrays": ArrayRecord([np.frombuffer(arrays, dtype=np.uint8)]), "config": config})
    (answer,) = grid.send_and_receive([grid.create_message(content, "train", 1, "1")])
    assert answer.has_error()
    assert "Fix:" in str(answer.error.reason)


@pytest.mark.parametrize("change", [{"nodes": 0}, {"rounds": 0}, {"depth": 11}, {"classes": 1}, {"learning_rate": 1.5}])
def test_impossible_plans_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MmfedError, match="federated boosting"):
        BoostingPlan(**({"classes": 3, "columns": 3, "nodes": 1} | change))
