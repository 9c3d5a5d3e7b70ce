"""Federated XGBoost by bagging: every round each node grows one tree on its own rows, and all trees join the model.

NO DIFFERENTIAL PRIVACY. A tree is made of thresholds and leaf values computed from a person's rows, in the clear; the
server sees each node's tree, and so does every node in the next round. A device whose policy demands privacy refuses
(``device_policy``). Flower's FedXgbBagging does the merging; replies are checked before it sees them.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedXgbBagging

from mmfed.config import Config, PrivacySection
from mmfed.data.behaviour import BehaviourTable, one_hot
from mmfed.data.imbalance.class_weights import class_weights
from mmfed.data.imbalance.extra import require_trees
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import faults
from mmfed.federated.boosting_check import LARGEST_MODEL, model_fault, reply_fault
from mmfed.federated.boosting_plan import BoostingPlan
from mmfed.federated.device_policy import check_policy
from mmfed.training.behaviour import THREADS, BoosterClassifier

NODE_POLL = 0.5  # seconds between looks for nodes
_log = logging.getLogger(__name__)


def client_app(load: Callable[[Context], BehaviourTable]) -> ClientApp:
    """The Flower ClientApp of a node.

    Args:
        load: the node's own training rows.
    """
    app = ClientApp()

    @app.train()
    @faults.faults_as_replies
    def train(message: Message, context: Context) -> Message:
        check_policy(context.node_config, Config(privacy=PrivacySection(mode="none")))
        plan = _read_plan(message.content)
        table = load(context)
        tree = grow_tree(_read_model(message.content, plan), table, plan)
        content = RecordDict({"arrays": _record(tree), "metrics": MetricRecord({"num-examples": len(table)})})
        return Message(content, reply_to=message)

    return app


def server_app(plan: BoostingPlan, keep: Callable[[bytes], None]) -> ServerApp:
    """The Flower ServerApp: ``plan.rounds`` rounds, then ``keep(model)`` with XGBoost's JSON.

    Raises (when it runs):
        MmfedError: a round in which no node grew a tree.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        require_trees("xgboost")
        strategy = CheckedBagging(plan)
        result = strategy.start(
            grid,
            _record(b""),
            plan.rounds,
            timeout=plan.timeout,
            train_config=ConfigRecord({"plan": json.dumps(asdict(plan))}),
        )
        keep(result.arrays["0"].numpy().tobytes())

    return app


class CheckedBagging(FedXgbBagging):
    """Flower's bagging, fed only with single trees of the agreed form, in the order of the nodes."""

    def __init__(self, plan: BoostingPlan) -> None:
        super().__init__(
            fraction_evaluate=0.0,
            min_train_nodes=plan.nodes,
            min_available_nodes=plan.nodes,
            weighted_by_key="num-examples",
        )
        self._plan = plan

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The model to every connected node (Flower would draw their order from the global generator).

        Raises:
            MmfedError: too few nodes within the timeout.
        """
        self.current_bst = arrays["0"].numpy().tobytes()
        deadline = time.monotonic() + self._plan.timeout
        while len(nodes := sorted(grid.get_node_ids())) < self._plan.nodes:
            if time.monotonic() > deadline:
                raise MmfedError(
                    ExitCode.FEDERATION,
                    f"{len(nodes)} of {self._plan.nodes} nodes connected within {self._plan.timeout:g} s.",
                    "start the missing nodes, or plan with fewer.",
                )
            time.sleep(NODE_POLL)
        content = RecordDict({"arrays": arrays, "config": config})
        return [grid.create_message(content, MessageType.TRAIN, node, str(server_round)) for node in nodes]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Leave out what is no tree, then merge.

        Raises:
            MmfedError: nothing is left.
        """
        good, refused, seen = [], [], set()
        for reply in sorted(replies, key=lambda one: one.metadata.src_node_id):
            node = reply.metadata.src_node_id
            if node in seen:
                continue
            seen.add(node)
            fault = faults.reason(reply.error) if reply.has_error() else reply_fault(reply.content, self._plan)
            if fault is None:
                good.append(reply)
            else:
                refused.append(f"node {node}: {fault}")
        if not good:
            raise MmfedError(
                ExitCode.FEDERATION,
                f"boosting round {server_round}: no node grew a tree ({faults.condensed(refused) or 'no reply'}).",
                "look at the nodes; devices that demand privacy never take part in federated boosting.",
            )
        if refused:
            _log.warning("boosting round %d goes on without %s", server_round, faults.condensed(refused))
        return super().aggregate_train(server_round, good)


def grow_tree(model: bytes, table: BehaviourTable, plan: BoostingPlan) -> bytes:
    """One more tree on a node's rows, as XGBoost's JSON that holds this tree alone.

    Args:
        model: the trees so far; empty before the first round.

    Raises:
        MmfedError: no rows, or other columns or classes than agreed.
    """
    require_trees("xgboost")
    import xgboost

    wide = one_hot(table.values, table.levels).astype(np.float32)
    if not len(table) or wide.shape[1] != plan.columns or len(table.classes) != plan.classes:
        raise MmfedError(
            ExitCode.FEDERATION,
            f"{len(table)} rows of {wide.shape[1]} columns and {len(table.classes)} classes here; "
            f"the plan has {plan.columns} columns and {plan.classes} classes.",
            "give every node a user with two interactions, and the same catalogue and actions.",
        )
    weighting = "balanced" if plan.balanced else "none"
    weights = class_weights(table.labels, plan.classes, weighting=weighting)[table.labels]
    rows = xgboost.DMatrix(wide, label=table.labels, weight=weights, nthread=THREADS)
    if not model:
        return bytes(xgboost.train(plan.parameters(), rows, 1).save_raw("json"))
    booster = xgboost.Booster(params=plan.parameters())
    booster.load_model(bytearray(model))
    rounds = booster.num_boosted_rounds()
    booster.update(rows, rounds)
    return bytes(booster[rounds : rounds + 1].save_raw("json"))


def boosted_classifier(model: bytes, table: BehaviourTable) -> BoosterClassifier:
    """The federated model as a classifier of rows like those of ``table``."""
    require_trees("xgboost")
    import xgboost

    booster = xgboost.Booster(params={"nthread": THREADS})
    booster.load_model(bytearray(model))
    return BoosterClassifier(table.levels, len(table.classes), booster)


def _record(model: bytes) -> ArrayRecord:
    return ArrayRecord([np.frombuffer(model, dtype=np.uint8)])


def _read_plan(content: RecordDict) -> BoostingPlan:
    try:
        return BoostingPlan(**json.loads(str(content["config"]["plan"])))  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        raise MmfedError(
            ExitCode.FEDERATION, "the coordinator sent no boosting plan.", "run the same mmfed on every host."
        ) from None


def _read_model(content: RecordDict, plan: BoostingPlan) -> bytes:
    try:
        array = content["arrays"]["0"]  # type: ignore[index]
        size = len(array.data)  # type: ignore[union-attr]
        model = b"" if size > LARGEST_MODEL else array.numpy().tobytes()  # type: ignore[union-attr]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise MmfedError(
            ExitCode.FEDERATION, "the coordinator sent no boosting model.", "run the same mmfed on every host."
        ) from None
    fault = f"{size} bytes" if size > LARGEST_MODEL else model_fault(model, plan) if model else None
    if fault is not None:
        raise MmfedError(
            ExitCode.FEDERATION,
            f"the coordinator's boosting model is not loaded: {fault}.",
            "run the same mmfed and XGBoost on every host.",
        )
    return model
