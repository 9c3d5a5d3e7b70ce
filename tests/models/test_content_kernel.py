"""How alike two items are: every part by hand, what is missing adds nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmfed.data.schema import Catalogue, Categorical, Features, Tags
from mmfed.models.content_kernel import CATEGORY, NEAR, NUMBER, OTHER_MODALITIES, TEXT, content_kernel

EMPTY = Catalogue(
    item_ids=("a", "b", "c"),
    titles=(None,) * 3,
    texts=(None,) * 3,
    images=(None,) * 3,
    prices=np.full(3, np.nan, dtype=np.float32),
)
SEEN = np.ones(3, dtype=bool)


def test_nothing_is_known_of_nothing():
    assert not content_kernel({}, EMPTY).any()


def test_cosines_of_modalities_by_weight():
    values = np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    for name, weight in (("text", TEXT), ("image", OTHER_MODALITIES), ("audio", OTHER_MODALITIES)):
        found = content_kernel({name: Features(values, SEEN)}, EMPTY)
        half = weight / np.sqrt(2)
        np.testing.assert_allclose(found, [[weight, 0, half], [0, weight, half], [half, half, weight]], atol=1e-12)


def test_encoded_attributes_count_by_their_columns_only():
    assert not content_kernel({"attributes": Features(np.eye(3), SEEN)}, EMPTY).any()


def test_what_an_item_lacks_adds_nothing():
    values = np.array([[1.0, 0.0], [np.nan, np.nan], [1.0, 0.0]])
    found = content_kernel({"text": Features(values, np.array([True, False, True]))}, EMPTY)
    np.testing.assert_allclose(found, TEXT * np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1]]), atol=1e-12)


def test_labels_one_or_many():
    one = replace(EMPTY, category=Categorical(np.array([0, 0, -1], dtype=np.int32), ("x",)))
    np.testing.assert_allclose(content_kernel({}, one), CATEGORY * np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0]]))
    many = replace(EMPTY, category=Tags(np.array([[1, 1], [1, 0], [0, 0]], dtype=bool), ("x", "y")))
    assert content_kernel({}, many)[0, 1] == pytest.approx(CATEGORY / np.sqrt(2))
    assert not content_kernel({}, many)[2].any()


def test_numbers_by_their_distance_and_prices_by_their_ratio():
    years = np.array([1990.0, 1995.0, np.nan], dtype=np.float32)
    found = content_kernel({}, replace(EMPTY, numeric={"year": years}))
    assert found[0, 1] == pytest.approx(NUMBER * np.exp(-5.0 / (NEAR * 2.5)), rel=1e-6)
    assert found[0, 0] == pytest.approx(NUMBER)
    assert not found[2].any()
    ladder = content_kernel({}, replace(EMPTY, prices=np.array([1.0, 10.0, 100.0], dtype=np.float32)))
    assert ladder[0, 1] == pytest.approx(ladder[1, 2], rel=1e-5)
    assert not content_kernel({}, replace(EMPTY, prices=np.array([0.0, -1.0, np.nan], dtype=np.float32))).any()
    assert not content_kernel({}, replace(EMPTY, numeric={"alike": np.ones(3, dtype=np.float32)})).any()
