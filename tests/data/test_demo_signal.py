"""Whether there is something to learn in the demo shop, and whether it goes when taste is taken out."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmfed.data.demo import load_demo, simulate
from mmfed.data.demo_shoppers import INDIFFERENT
from mmfed.data.schema import Catalogue, Categorical, Interactions, Shop
from mmfed.types import FloatArray, IntArray

K = 10


def leave_last_out(interactions: Interactions) -> tuple[FloatArray, IntArray]:
    """Known items [users, items] as 0/1, and the last new item [users] of each user."""
    known, last = np.zeros((interactions.user_count, interactions.item_count)), []
    for user in range(interactions.user_count):
        items = interactions.items[interactions.rows(user)]
        first = np.sort(np.unique(items, return_index=True)[1])
        known[user, items[first[:-1]]] = 1
        last.append(items[first[-1]])
    return known, np.array(last)


def recall(scores: FloatArray, known: FloatArray, last: IntArray) -> float:
    scores = np.where(known > 0, -np.inf, scores)
    top = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    return float((top == last[:, None]).any(1).mean())


def ease(known: FloatArray, regulariser: float = 100.0) -> FloatArray:
    """Steck 2019, closed form."""
    precision = np.linalg.inv(known.T @ known + regulariser * np.eye(known.shape[1]))
    weights = -precision / np.diag(precision)
    np.fill_diagonal(weights, 0)
    return known @ weights


def popularity(known: FloatArray) -> FloatArray:
    return np.broadcast_to(known.sum(0), known.shape)


def nearest_neighbours(features: FloatArray, known: FloatArray) -> FloatArray:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return known @ np.maximum(unit @ unit.T, 0) ** 3


def attributes(catalogue: Catalogue) -> FloatArray:
    columns = [catalogue.category, catalogue.store, *catalogue.categorical.values()]
    blocks = [np.eye(len(c.names))[c.codes] for c in columns if isinstance(c, Categorical)]
    joined = np.concatenate(blocks, axis=1)
    return joined / np.sqrt(joined.sum(0) + 1)


def colour_histograms(catalogue: Catalogue) -> FloatArray:
    """[items, 512] of the middle of each picture, centred so that similarity means more than "is a photo"."""
    rows = []
    for path in catalogue.images:
        with Image.open(str(path)) as picture:
            pixels = np.asarray(picture.convert("RGB").resize((32, 32)))[6:26, 6:26].reshape(-1, 3) // 32
        rows.append(np.bincount(pixels @ np.array([64, 8, 1]), minlength=512))
    features = np.sqrt(np.array(rows, dtype=np.float64))
    return features - features.mean(0)


@pytest.fixture(scope="module")
def shop() -> Shop:
    return load_demo()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_co_occurrence_beats_popularity(shop: Shop, seed: int) -> None:
    known, last = leave_last_out(simulate(shop.catalogue, 600, seed))
    assert recall(ease(known), known, last) > 2.5 * recall(popularity(known), known, last)


def test_without_taste_nothing_beats_popularity(shop: Shop) -> None:
    known, last = leave_last_out(simulate(shop.catalogue, 600, 0, taste=INDIFFERENT))
    baseline = recall(popularity(known), known, last)
    assert recall(ease(known), known, last) < 1.2 * baseline
    assert recall(nearest_neighbours(attributes(shop.catalogue), known), known, last) < 2.5 * K / shop.catalogue.size


def test_shuffled_targets_are_not_predicted(shop: Shop) -> None:
    """The same scores against other people's last items: no better than popularity, so the gain is personal."""
    known, last = leave_last_out(shop.interactions)
    others = np.roll(last, 1)
    baseline = recall(popularity(known), known, others)
    assert recall(ease(known), known, others) < 1.3 * baseline


def test_attributes_and_pictures_carry_signal_for_cold_items(shop: Shop) -> None:
    known, last = leave_last_out(shop.interactions)
    random = K / shop.catalogue.size
    assert recall(nearest_neighbours(attributes(shop.catalogue), known), known, last) > 7 * random
    assert recall(nearest_neighbours(colour_histograms(shop.catalogue), known), known, last) > 2 * random


def test_content_does_not_explain_everything(shop: Shop) -> None:
    """Trends are visible in nobody's attributes, so learning from behaviour has something to add."""
    known, last = leave_last_out(shop.interactions)
    content = recall(nearest_neighbours(attributes(shop.catalogue), known), known, last)
    assert recall(ease(known), known, last) > 1.05 * content


def test_order_carries_signal(shop: Shop) -> None:
    """Weighing recent items more predicts the next one better."""
    known, last = leave_last_out(shop.interactions)
    recent = np.zeros_like(known)
    for user in range(len(known)):
        items = shop.interactions.items[shop.interactions.rows(user)]
        order = items[np.sort(np.unique(items, return_index=True)[1])][:-1]
        recent[user, order] = 0.85 ** np.arange(len(order))[::-1]
    features = attributes(shop.catalogue)
    plain = recall(nearest_neighbours(features, known), known, last)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert recall(recent @ (unit @ unit.T) ** 3, known, last) > 1.1 * plain
