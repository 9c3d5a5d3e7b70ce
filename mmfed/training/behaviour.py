"""Classifiers of the next action: two baselines, logistic regression, AdaBoost and XGBoost.

NO DIFFERENTIAL PRIVACY: none of them limits or hides what one person contributes. They are for a party that may see the
rows anyway, or for one device that keeps its classifier to itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from mmfed.data.behaviour import BehaviourTable, one_hot
from mmfed.data.imbalance.class_weights import Weighting, class_weights
from mmfed.data.imbalance.contribution import Method, Pool
from mmfed.data.imbalance.extra import require_trees
from mmfed.data.imbalance.resample import Resampled, resample
from mmfed.errors import ExitCode, MmfedError
from mmfed.rng import derive
from mmfed.types import FloatArray, IntArray

ClassifierName = Literal["majority", "last-action", "logistic", "adaboost", "xgboost"]
NO_PRIVACY = "no differential privacy"
THREADS = 1  # the sums of a histogram depend on the number of threads, and results must not


class BehaviourClassifier(Protocol):
    """What a fitted classifier can do."""

    def probabilities(self, values: FloatArray) -> FloatArray:
        """[rows, classes] from the columns of a ``BehaviourTable`` [rows, columns]; each row sums to 1."""
        ...


@dataclass(frozen=True, kw_only=True)
class BehaviourMethod:
    """A classifier and what is done about rare classes.

    Attributes:
        weighting: class weights in the loss (AdaBoost: in the first distribution over the rows).
        resampling: of the training rows, in ``pool``, limited by ``most_copies``.
        trees: boosting rounds of AdaBoost and XGBoost.
        depth: of the trees.
    """

    classifier: ClassifierName
    weighting: Weighting = "none"
    resampling: Method = "none"
    pool: Pool = "everyone"
    most_copies: int | None = None
    trees: int = 100
    depth: int = 4

    @property
    def name(self) -> str:
        """What tables call it."""
        parts = [_TITLES[self.classifier]]
        if self.weighting != "none":
            parts.append("class weights" if self.weighting == "balanced" else "effective-number weights")
        if self.resampling != "none":
            where = " on each device" if self.pool == "device" else ""
            limit = "" if self.most_copies is None else f", at most {self.most_copies} copies"
            parts.append(f"{_RESAMPLINGS[self.resampling]}{where}{limit}")
        return " + ".join(parts)


_TITLES = {
    "majority": "most frequent action",
    "last-action": "frequencies by last action",
    "logistic": "logistic regression",
    "adaboost": "AdaBoost",
    "xgboost": "XGBoost",
}
_RESAMPLINGS = {"random-over": "over-sampling", "random-under": "under-sampling", "smote": "SMOTE"}


def fit_behaviour(
    table: BehaviourTable, method: BehaviourMethod, *, seed: int
) -> tuple[BehaviourClassifier, Resampled]:
    """Resample and fit; the rows that were trained on come along, for ``contribution``.

    Args:
        table: training rows.

    Raises:
        MmfedError: no rows, a setting out of range, resampling that is refused, or the ``trees`` extra is missing.
    """
    if not len(table):
        raise MmfedError(
            ExitCode.DATA, "no rows to train a behaviour classifier on.", "give users with two interactions or more."
        )
    if method.trees < 1 or method.depth < 1 or method.classifier not in _FITS:
        raise MmfedError(
            ExitCode.CONFIG,
            f"{method.classifier} with {method.trees} trees of depth {method.depth}: not possible.",
            f"use one of {', '.join(_FITS)}, with 1 tree and depth 1 or more.",
        )
    rows = resample(
        table.values,
        table.labels,
        table.groups,
        method=method.resampling,
        pool=method.pool,
        privacy_mode="none",
        levels=table.levels,
        most_copies=method.most_copies,
        seed=seed,
    )
    weights = class_weights(rows.labels, len(table.classes), weighting=method.weighting)[rows.labels]
    trained = replace(table, values=rows.values, labels=rows.labels, groups=rows.groups, places=rows.origins)
    key = derive(seed, "behaviour", method.classifier) % 2**31
    return _FITS[method.classifier](trained, weights, method, key), rows


@dataclass(frozen=True, eq=False)
class ActionFrequencies:
    """Frequencies of the actions, by the value of one column or overall.

    Attributes:
        column: which column decides, None for none.
        table: [levels, classes] (one row where ``column`` is None).
    """

    column: int | None
    table: FloatArray

    def probabilities(self, values: FloatArray) -> FloatArray:
        """See ``BehaviourClassifier``."""
        rows = np.zeros(len(values), dtype=np.int64) if self.column is None else values[:, self.column].astype(np.int64)
        return self.table[rows]


@dataclass(frozen=True, eq=False)
class SpreadClassifier:
    """A scikit-learn classifier on standardised, one-hot columns.

    Attributes:
        levels: [columns] of the table.
        centre, scale: [wide] of the training rows.
        model: fitted; ``classes_`` may lack classes that no training row has.
        classes: number of classes.
    """

    levels: IntArray
    centre: FloatArray
    scale: FloatArray
    model: Any
    classes: int

    def probabilities(self, values: FloatArray) -> FloatArray:
        """See ``BehaviourClassifier``."""
        result = np.zeros((len(values), self.classes))
        if len(values):
            wide = (one_hot(values, self.levels) - self.centre) / self.scale
            result[:, self.model.classes_] = self.model.predict_proba(wide)
        return result


@dataclass(frozen=True, eq=False)
class BoosterClassifier:
    """An XGBoost model on one-hot columns."""

    levels: IntArray
    classes: int
    booster: Any

    def probabilities(self, values: FloatArray) -> FloatArray:
        """See ``BehaviourClassifier``."""
        import xgboost

        wide = one_hot(values, self.levels).astype(np.float32)
        if not len(wide):
            return np.zeros((0, self.classes))
        return np.asarray(self.booster.predict(xgboost.DMatrix(wide, nthread=THREADS)), dtype=np.float64)


def boosting_parameters(*, classes: int, depth: int, learning_rate: float, seed: int) -> dict[str, Any]:
    """XGBoost's settings for one tree a round that votes for all classes at once.

    One tree for all classes (rather than one per class) is what Flower's bagging can merge: it counts a tree per round
    and knows no class of a tree. The start is fixed, so that it is the same on every node.
    """
    return {
        "objective": "multi:softprob",
        "num_class": classes,
        "multi_strategy": "multi_output_tree",
        "tree_method": "hist",
        "max_depth": depth,
        "eta": learning_rate,
        "base_score": 0.5,
        "seed": seed,
        "nthread": THREADS,
        "verbosity": 0,
    }


def _frequencies(table: BehaviourTable, weights: FloatArray, method: BehaviourMethod, key: int) -> ActionFrequencies:
    classes = len(table.classes)
    counts = np.bincount(table.labels, weights, minlength=classes) + 1.0  # add-one smoothing
    overall = counts / counts.sum()
    if method.classifier == "majority":
        return ActionFrequencies(None, overall[None, :])
    column = int(np.flatnonzero(table.levels)[0])
    levels = int(table.levels[column])
    cells = table.values[:, column].astype(np.int64) * classes + table.labels
    by_level = np.bincount(cells, weights, minlength=levels * classes).reshape(levels, classes) + overall
    return ActionFrequencies(column, by_level / by_level.sum(axis=1, keepdims=True))


def _spread(table: BehaviourTable) -> tuple[FloatArray, FloatArray, FloatArray]:
    wide = one_hot(table.values, table.levels)
    centre, scale = wide.mean(axis=0), wide.std(axis=0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    return (wide - centre) / scale, centre, scale


def _logistic(table: BehaviourTable, weights: FloatArray, method: BehaviourMethod, key: int) -> BehaviourClassifier:
    require_trees("sklearn")
    if len(np.unique(table.labels)) < 2:
        return _frequencies(table, weights, replace(method, classifier="majority"), key)
    from sklearn.linear_model import LogisticRegression

    wide, centre, scale = _spread(table)
    model = LogisticRegression(max_iter=5000, tol=1e-4).fit(wide, table.labels, sample_weight=weights)
    return SpreadClassifier(table.levels, centre, scale, model, len(table.classes))


def _adaboost(table: BehaviourTable, weights: FloatArray, method: BehaviourMethod, key: int) -> BehaviourClassifier:
    require_trees("sklearn")
    if len(np.unique(table.labels)) < 2:
        return _frequencies(table, weights, replace(method, classifier="majority"), key)
    from sklearn.ensemble import AdaBoostClassifier
    from sklearn.tree import DecisionTreeClassifier

    wide, centre, scale = _spread(table)
    stump = DecisionTreeClassifier(max_depth=min(method.depth, 2), random_state=key)
    model = AdaBoostClassifier(stump, n_estimators=method.trees, learning_rate=0.5, random_state=key)
    model.fit(wide, table.labels, sample_weight=weights)
    return SpreadClassifier(table.levels, centre, scale, model, len(table.classes))


def _xgboost(table: BehaviourTable, weights: FloatArray, method: BehaviourMethod, key: int) -> BehaviourClassifier:
    require_trees("xgboost")
    import xgboost

    wide = one_hot(table.values, table.levels).astype(np.float32)
    rows = xgboost.DMatrix(wide, label=table.labels, weight=weights, nthread=THREADS)
    parameters = boosting_parameters(classes=len(table.classes), depth=method.depth, learning_rate=0.1, seed=key)
    return BoosterClassifier(table.levels, len(table.classes), xgboost.train(parameters, rows, method.trees))


_Fit = Callable[[BehaviourTable, FloatArray, BehaviourMethod, int], BehaviourClassifier]
_FITS: dict[str, _Fit] = {
    "majority": _frequencies,
    "last-action": _frequencies,
    "logistic": _logistic,
    "adaboost": _adaboost,
    "xgboost": _xgboost,
}
