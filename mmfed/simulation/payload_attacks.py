"""What one device's update betrays to whoever reads the wire: items, single interactions, attributes, content.

Attackers learn from shadow users (half of those attacked) and are measured on the others. They know the model that was
sent out and the public catalogue, and nothing of the person.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mmfed.federated import wire
from mmfed.federated.workspace import Workspace
from mmfed.privacy.audit.canaries import area_under_curve, mean_interval
from mmfed.rng import numpy_generator
from mmfed.simulation.payloads import Payloads
from mmfed.training.batch import Histories
from mmfed.training.reference import train_user
from mmfed.training.update import LocalWork
from mmfed.types import FloatArray, IntArray

MOST_ITEMS = 400  # items that are attacked; of a larger catalogue, those with most history and random others
_RIDGE = 1e-2


@dataclass(frozen=True, kw_only=True)
class Attack:
    """The outcome of one attack.

    Args:
        name: of the attack.
        what: was attempted, and how many were attacked.
        value, low, high: AUC and its 95 % interval over people; NaN where it could not be tried.
        chance: AUC without the update.
        precision, recall: of as many guesses as there are true items (support recall only).
    """

    name: str
    what: str
    value: float
    low: float
    high: float
    chance: float = 0.5
    precision: float | None = None
    recall: float | None = None


def attack_payloads(payloads: Payloads, workspace: Workspace, *, seed: int) -> list[Attack]:
    """All attacks; empty where no device sent an update in the clear."""
    if len(payloads.users) < 8:
        return []
    order = numpy_generator(seed, "audit", "shadow").permutation(len(payloads.users))
    shadow, target = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    touched = touched_items(workspace, payloads.users)
    chosen = _items(touched, seed)
    scores = item_scores(payloads, workspace, chosen, touched, shadow, seed=seed)
    return [
        support_recall(scores, touched, chosen, shadow, target),
        interaction_membership(scores, touched, chosen, shadow, target, seed=seed),
        attribute_inference(payloads, workspace, touched, shadow, target),
        embedding_inversion(payloads, workspace, touched, shadow, target),
    ]


def touched_items(workspace: Workspace, users: IntArray) -> np.ndarray:
    """[users, items] bool."""
    train = workspace.split.train
    found = np.zeros((len(users), train.item_count), dtype=bool)
    for row, user in enumerate(users.tolist()):
        found[row, train.items[train.rows(user)]] = True
    return found


def _items(touched: np.ndarray, seed: int) -> IntArray:
    count = touched.shape[1]
    if count <= MOST_ITEMS:
        return np.arange(count)
    popular = np.argsort(-touched.sum(0), kind="stable")[: MOST_ITEMS // 2]
    rest = np.setdiff1d(np.arange(count), popular)
    drawn = numpy_generator(seed, "audit", "items").choice(rest, MOST_ITEMS - len(popular), replace=False)
    return np.sort(np.concatenate([popular, drawn]))


def item_scores(
    payloads: Payloads, workspace: Workspace, items: IntArray, touched: np.ndarray, shadow: IntArray, *, seed: int
) -> FloatArray:
    """[devices, items] how much an update looks like one of a person who touched the item.

    Two readings: the rows of parameters that belong to items (their norm, and their sign where they are numbers), and
    the likeness to the update of an invented person whose history holds the item. The reading that works best on
    shadow users is taken.
    """
    readings: list[FloatArray] = []
    count = workspace.split.train.item_count
    for value in payloads.by_name().values():
        if value.ndim > 1 and value.shape[1] == count:
            rows = value[:, items].reshape(len(value), len(items), -1)
            norms = np.linalg.norm(rows, axis=2)
            readings += [norms, -norms]
            if rows.shape[2] == 1:
                readings += [rows[:, :, 0], -rows[:, :, 0]]
    readings.append(_likeness(payloads, workspace, items, seed=seed))
    worth = [_shadow_area(one, touched[:, items], shadow) for one in readings]
    return readings[int(np.argmax(worth))]


def _shadow_area(scores: FloatArray, truth: np.ndarray, shadow: IntArray) -> float:
    areas = [area_under_curve(scores[row][truth[row]], scores[row][~truth[row]]) for row in shadow.tolist()]
    return float(np.nanmean(areas)) if np.isfinite(areas).any() else 0.5


def _likeness(payloads: Payloads, workspace: Workspace, items: IntArray, *, seed: int) -> FloatArray:
    """[devices, items] cosine of each update with that of somebody with the item and one at random."""
    config = workspace.config
    plain = config.privacy.model_copy(update={"mode": "none", "task_clip_norm": None})
    work = LocalWork(training=config.training, privacy=plain, seed=config.run.seed, round_number=1)
    generator = numpy_generator(seed, "audit", "probe")
    count = workspace.split.train.item_count
    probes = np.zeros((len(items), payloads.updates.shape[1]))
    vector = torch.zeros(payloads.model.private_dimensions)
    for row, item in enumerate(items.tolist()):
        pair = np.array([int(generator.integers(count)), item, item])
        probe = Histories(
            np.array([2**40 + row], dtype=np.uint64),
            np.array([0, 3]),
            pair,
            np.full(3, 3.0),
            np.zeros(3, dtype=np.int64),
        )
        probes[row] = wire.flatten(train_user(payloads.model, probe, vector, work)[0], payloads.shapes)
    probes -= probes.mean(axis=0)
    updates = payloads.updates - payloads.updates.mean(axis=0)
    return _unit(updates) @ _unit(probes).T


def support_recall(
    scores: FloatArray, touched: np.ndarray, items: IntArray, shadow: IntArray, target: IntArray
) -> Attack:
    """Which items did the person touch? AUC over items, person by person; popularity alone as chance."""
    truth = touched[:, items]
    popularity = touched[shadow][:, items].sum(axis=0)
    areas, chance, precisions, recalls = [], [], [], []
    for row in target.tolist():
        mine = truth[row]
        if not 0 < mine.sum() < len(items):
            continue
        areas.append(area_under_curve(scores[row][mine], scores[row][~mine]))
        chance.append(area_under_curve(popularity[mine].astype(float), popularity[~mine].astype(float)))
        guessed = np.argsort(-scores[row], kind="stable")[: int(mine.sum())]
        precisions.append(float(mine[guessed].mean()))
        recalls.append(float(mine[guessed].sum() / mine.sum()))
    value, low, high = mean_interval(areas)
    return Attack(
        name="support recall",
        what=f"which of {len(items)} items did the person touch; {len(areas)} people",
        value=value,
        low=low,
        high=high,
        chance=float(np.mean(chance)) if chance else 0.5,
        precision=float(np.mean(precisions)) if precisions else None,
        recall=float(np.mean(recalls)) if recalls else None,
    )


def interaction_membership(
    scores: FloatArray, touched: np.ndarray, items: IntArray, shadow: IntArray, target: IntArray, *, seed: int
) -> Attack:
    """Did the person touch this item? Against items that are as popular, so that popularity tells nothing."""
    truth = touched[:, items]
    popularity = touched[:, items].sum(axis=0)
    standard = (scores - scores[shadow].mean(axis=0)) / (scores[shadow].std(axis=0) + 1e-12)
    generator = numpy_generator(seed, "audit", "matched")
    wins = []
    for row in target.tolist():
        mine, others = np.flatnonzero(truth[row]), np.flatnonzero(~truth[row])
        if not len(mine) or not len(others):
            continue
        won = []
        for item in mine.tolist():
            # the person's own interaction does not count: out of two alike items, one was touched
            apart = np.abs(popularity[others] - (popularity[item] - 1)) + 1e-3 * generator.random(len(others))
            match = others[int(np.argmin(apart))]
            won.append(
                (standard[row, item] > standard[row, match]) + 0.5 * (standard[row, item] == standard[row, match])
            )
        wins.append(float(np.mean(won)))
    value, low, high = mean_interval(wins)
    return Attack(
        name="interaction membership",
        what=f"did the person touch this item or another as popular; {len(wins)} people",
        value=value,
        low=low,
        high=high,
    )


def attribute_inference(
    payloads: Payloads, workspace: Workspace, touched: np.ndarray, shadow: IntArray, target: IntArray
) -> Attack:
    """What the person said about the own person or, where nobody was asked, the favourite category."""
    labels, what = _attributes(payloads, workspace, touched)
    if labels is None:
        return Attack(name="attribute inference", what=what, value=np.nan, low=np.nan, high=np.nan)
    classes = [one for one in np.unique(labels[shadow]) if (labels[shadow] == one).sum() >= 2]
    truth = np.stack([labels == one for one in classes], axis=1).astype(float)
    predicted = _regression(payloads.updates, truth, shadow, target)
    areas = []
    for column in range(len(classes)):
        mine = truth[target, column] > 0
        areas.append(area_under_curve(predicted[mine, column], predicted[~mine, column]))
    # The interval is over people: each person's own class against the others' standing in that class.
    own = []
    for place, row in enumerate(target.tolist()):
        column = next((number for number, one in enumerate(classes) if labels[row] == one), None)
        others = None if column is None else predicted[truth[target, column] == 0, column]
        if column is not None and others is not None and len(others):
            own.append(area_under_curve(predicted[place : place + 1, column], others))
    value, low, high = mean_interval(own)
    return Attack(name="attribute inference", what=f"{what}; {len(own)} people", value=value, low=low, high=high)


def _attributes(payloads: Payloads, workspace: Workspace, touched: np.ndarray) -> tuple[np.ndarray | None, str]:
    if workspace.people is not None:
        return np.asarray(workspace.people)[payloads.users, 0], "the first thing people say about themselves"
    categories = workspace.item_features.labels.get("category")
    if categories is None:
        return None, "no attribute of people and no category of items is known"
    counts = touched.astype(float) @ categories.targets.double().numpy()
    return counts.argmax(axis=1), "the category the person touched most"


def embedding_inversion(
    payloads: Payloads, workspace: Workspace, touched: np.ndarray, shadow: IntArray, target: IntArray
) -> Attack:
    """The mean content embedding of a history, rebuilt; AUC of it being nearer to the own than to others'."""
    features = [value.double().numpy() for value in workspace.item_features.values if value.shape[1]]
    name = "embedding inversion"
    if not features:
        return Attack(name=name, what="no frozen content features", value=np.nan, low=np.nan, high=np.nan)
    content = np.concatenate(features, axis=1)
    profile = touched.astype(float) @ content / np.maximum(touched.sum(axis=1, keepdims=True), 1)
    profile -= profile[shadow].mean(axis=0)
    rebuilt = _regression(payloads.updates, profile, shadow, target)
    likeness = _unit(rebuilt) @ _unit(profile[target]).T
    own = []
    for place in range(len(target)):
        others = np.delete(likeness[place], place)
        own.append(area_under_curve(likeness[place, place : place + 1], others))
    value, low, high = mean_interval(own)
    return Attack(
        name=name, what=f"content of what the person looked at; {len(own)} people", value=value, low=low, high=high
    )


def _regression(updates: FloatArray, truth: FloatArray, shadow: IntArray, target: IntArray) -> FloatArray:
    """[targets, columns] ridge regression on normalised updates, learned from shadow users (dual form)."""
    centre = updates[shadow].mean(axis=0)
    learned, asked = _unit(updates[shadow] - centre), _unit(updates[target] - centre)
    gram = learned @ learned.T
    ridge = _RIDGE * max(float(np.trace(gram)) / len(gram), 1e-12)
    mean = truth[shadow].mean(axis=0)
    return mean + asked @ learned.T @ np.linalg.solve(gram + ridge * np.eye(len(gram)), truth[shadow] - mean)


def _unit(rows: FloatArray) -> FloatArray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
