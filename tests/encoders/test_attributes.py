from __future__ import annotations

import numpy as np

from mmfed.data.schema import Catalogue, Categorical, Tags
from mmfed.encoders.attributes import attribute_features, attribute_names


def shop(size: int = 4, **columns: object) -> Catalogue:
    nothing = (None,) * size
    base: dict[str, object] = {
        "item_ids": tuple(f"i{n}" for n in range(size)),
        "titles": nothing,
        "texts": nothing,
        "images": nothing,
        "prices": np.full(size, np.nan, dtype=np.float32),
    }
    return Catalogue(**(base | columns))  # type: ignore[arg-type]


def column(catalogue: Catalogue, name: str) -> np.ndarray:
    return attribute_features(catalogue).values[:, attribute_names(catalogue).index(name)]


def test_price_is_standardised_on_the_log_scale_with_its_own_missing_column() -> None:
    prices = np.array([0.0, np.e - 1, np.e**2 - 1, np.nan], dtype=np.float32)  # log1p: 0, 1, 2
    catalogue = shop(prices=prices)
    assert attribute_names(catalogue) == ("price", "price missing")
    root = np.sqrt(1.5)
    np.testing.assert_allclose(column(catalogue, "price"), [-root, 0.0, root, 0.0], atol=1e-6)
    # The item without a price has no other attribute either: it is absent, not an item known to lack a price.
    np.testing.assert_array_equal(attribute_features(catalogue).present, [True, True, True, False])
    assert (attribute_features(catalogue).values[3] == 0).all()


def test_missing_number_of_a_present_item_is_the_mean_and_says_so() -> None:
    weight = np.array([1.0, 3.0, np.nan, np.inf], dtype=np.float32)
    store = Categorical(np.array([0, 0, 0, 1], dtype=np.int32), ("a", "b"))
    catalogue = shop(numeric={"weight": weight}, store=store)
    np.testing.assert_allclose(column(catalogue, "weight"), [-1.0, 1.0, 0.0, 0.0])
    np.testing.assert_array_equal(column(catalogue, "weight missing"), [0, 0, 1, 1])
    assert attribute_features(catalogue).present.all()


def test_no_missing_column_where_nothing_is_missing() -> None:
    catalogue = shop(prices=np.array([1, 2, 3, 4], dtype=np.float32))
    assert attribute_names(catalogue) == ("price",)


def test_negative_prices_are_missing_and_constant_numbers_are_zero() -> None:
    catalogue = shop(
        prices=np.array([-5, 2, 2, 2], dtype=np.float32), numeric={"n": np.full(4, 1e30, dtype=np.float32)}
    )
    np.testing.assert_array_equal(column(catalogue, "price missing"), [1, 0, 0, 0])
    assert np.isfinite(attribute_features(catalogue).values).all()
    assert (column(catalogue, "price") == 0).all()
    assert (column(catalogue, "n") == 0).all()


def test_labels_are_one_hot_and_unused_labels_have_no_column() -> None:
    category = Categorical(np.array([2, 0, -1, 2], dtype=np.int32), ("Hat", "Never", "Shoe"))
    catalogue = shop(category=category)
    assert attribute_names(catalogue) == ("category=Hat", "category=Shoe")
    features = attribute_features(catalogue)
    np.testing.assert_array_equal(features.values, [[0, 1], [1, 0], [0, 0], [0, 1]])
    np.testing.assert_array_equal(features.present, [True, True, False, True])


def test_rare_labels_share_a_column() -> None:
    codes = np.concatenate([np.repeat(np.arange(64), 2), np.arange(64, 70)]).astype(np.int32)
    brand = Categorical(codes, tuple(f"b{n}" for n in range(70)))
    catalogue = shop(len(codes), categorical={"brand": brand})
    names = attribute_names(catalogue)
    assert len(names) == 65
    assert names[-1] == "brand: other"
    values = attribute_features(catalogue).values
    assert (values.sum(axis=1) == 1).all()
    assert (values[-6:, -1] == 1).all()
    assert values[:-6, -1].sum() == 0


def test_tags_are_multi_hot_and_rare_tags_share_a_column() -> None:
    matrix = np.zeros((70, 70), dtype=bool)
    matrix[:, 0] = True
    matrix[np.arange(70), np.arange(70)] = True
    matrix[3] = False
    genres = Tags(matrix, tuple(f"g{n}" for n in range(70)))
    catalogue = shop(70, tags={"genre": genres})
    features = attribute_features(catalogue)
    assert len(attribute_names(catalogue)) == features.values.shape[1] == 65
    assert not features.present[3]
    assert features.values[5].sum() == 2
    assert features.values[69, -1] == 1


def test_category_may_be_tags() -> None:
    category = Tags(np.array([[1, 1], [0, 1], [0, 0], [1, 0]], dtype=bool), ("Action", "War"))
    catalogue = shop(category=category)
    assert attribute_names(catalogue) == ("category=Action", "category=War")
    np.testing.assert_array_equal(attribute_features(catalogue).present, [True, True, False, True])


def test_a_shop_without_attributes() -> None:
    features = attribute_features(shop())
    assert features.values.shape == (4, 0)
    assert not features.present.any()
    assert attribute_names(shop()) == ()


def test_columns_of_one_name_in_every_order_of_the_mapping() -> None:
    one, two = (np.array(v, dtype=np.float32) for v in ([1, 2, 3, 4], [4, 2, 8, 6]))
    first, second = shop(numeric={"a": one, "b": two}), shop(numeric={"b": two, "a": one})
    assert attribute_names(first) == attribute_names(second) == ("a", "b")
    np.testing.assert_array_equal(attribute_features(first).values, attribute_features(second).values)
