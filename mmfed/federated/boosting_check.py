"""Whether bytes from another party are trees of the agreed form, before XGBoost or Flower's merging see them.

XGBoost follows a model's links and sizes as they stand: a link that leaves its tree or leads back up would crash or
hang whoever predicts with it. The form is the one XGBoost 3.2 writes for trees that vote for all classes at once.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, MetricRecord, RecordDict

from mmfed.federated.boosting_plan import BoostingPlan
from mmfed.types import IntArray

LARGEST_TREE = 2_000_000  # bytes of one node's reply
LARGEST_MODEL = 200_000_000  # bytes that a node will load
LARGEST_LEAF = 10.0  # log odds; honest trees stay far below
_UNREADABLE = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


def reply_fault(content: RecordDict, plan: BoostingPlan) -> str | None:
    """Why a node's reply is not one tree of the agreed form, or None."""
    try:
        arrays, metrics = content["arrays"], content["metrics"]
        if len(content) != 2 or not isinstance(arrays, ArrayRecord) or not isinstance(metrics, MetricRecord):
            return "not the records of a boosting reply"
        if list(arrays) != ["0"] or list(metrics) != ["num-examples"]:
            return "not the entries of a boosting reply"
        examples = metrics["num-examples"]
        if type(examples) is not int or not 0 < examples < 2**53:
            return "not a number of rows"
        if len(arrays["0"].data) > LARGEST_TREE:
            return f"a tree of {len(arrays['0'].data)} bytes"
        return _form_fault(arrays["0"].numpy().tobytes(), plan, fewest=1, most=1)
    except _UNREADABLE as error:
        return f"not a readable tree ({type(error).__name__})"


@lru_cache(maxsize=2)  # the nodes of one process all get the same model
def model_fault(model: bytes, plan: BoostingPlan) -> str | None:
    """Why the coordinator's model is not whole rounds of trees of the agreed form, or None."""
    try:
        return _form_fault(model, plan, fewest=1, most=plan.nodes * plan.rounds)
    except _UNREADABLE as error:
        return f"not a readable model ({type(error).__name__})"


def _form_fault(raw: bytes, plan: BoostingPlan, *, fewest: int, most: int) -> str | None:
    learner = json.loads(raw)["learner"]
    shape, booster = learner["learner_model_param"], learner["gradient_booster"]
    model = booster["model"]
    sizes, trees = model["gbtree_model_param"], model["trees"]
    count = len(trees)
    found = (int(shape["num_class"]), int(shape["num_feature"]))
    if found != (plan.classes, plan.columns) or int(shape["num_target"]) != 1:
        return f"made for {found[0]} classes and {found[1]} columns"
    if not fewest <= count <= most or (int(sizes["num_trees"]), int(sizes["num_parallel_tree"])) != (count, 1):
        return f"{count} trees"
    if model["tree_info"] != [0] * count or model["iteration_indptr"] != list(range(count + 1)):
        return "trees that are not one a round"
    if booster["name"] != "gbtree" or learner["objective"]["name"] != "multi:softprob":
        return "another kind of model"
    if not np.array_equal(np.unique(json.loads(shape["base_score"])), [0.5]):
        return "another start than the agreed one"
    if learner["attributes"] or learner["feature_names"] or learner["feature_types"] or model["cats"]["enc"]:
        return "more than trees"
    return next((fault for tree in trees if (fault := _tree_fault(tree, plan)) is not None), None)


def _tree_fault(tree: dict[str, Any], plan: BoostingPlan) -> str | None:
    nodes = len(tree["left_children"])
    if not 0 < nodes < 2 ** (plan.depth + 1):
        return f"a tree of {nodes} nodes"
    left, right, parents, columns = (
        _whole(tree[name], nodes) for name in ("left_children", "right_children", "parents", "split_indices")
    )
    inner = left != -1
    leaves = int((~inner).sum())
    children, above = np.concatenate([left[inner], right[inner]]), np.tile(np.flatnonzero(inner), 2)
    if not np.array_equal(np.sort(children), np.arange(1, nodes)) or (children <= above).any():
        return "links that are no tree"
    if parents[0] != -1 or (parents[children] != above).any():
        return "parents that are not those of the links"
    # XGBoost numbers the leaves' vectors in the place of a leaf's right child.
    if not np.array_equal(np.sort(right[~inner]), np.arange(leaves)):
        return "leaves that are not numbered"
    if columns.min() < 0 or columns.max() >= plan.columns or _whole(tree["split_type"], nodes).any():
        return "a split on a column that does not exist"
    if any(tree[name] for name in ("categories", "categories_nodes", "categories_segments", "categories_sizes")):
        return "splits on categories"
    sizes = {name: int(tree["tree_param"][name]) for name in ("num_nodes", "num_feature", "size_leaf_vector")}
    if sizes != {"num_nodes": nodes, "num_feature": plan.columns, "size_leaf_vector": plan.classes}:
        return "sizes other than the tree's own"
    lengths = {"leaf_weights": leaves * plan.classes, "base_weights": nodes * plan.classes}
    lengths |= dict.fromkeys(("default_left", "loss_changes", "split_conditions", "sum_hessian"), nodes)
    for name, length in lengths.items():
        values = np.asarray(tree[name], dtype=np.float64)
        if values.shape != (length,) or not np.isfinite(values).all():
            return f"{name}: not {length} finite numbers"
    if np.abs(np.asarray(tree["leaf_weights"])).max() > LARGEST_LEAF:
        return f"a leaf beyond {LARGEST_LEAF:g}"
    return None


def _whole(values: list[Any], size: int) -> IntArray:
    if len(values) != size or any(type(value) is not int for value in values):
        raise ValueError("not whole numbers, one per node")
    return np.asarray(values, dtype=np.int64)
