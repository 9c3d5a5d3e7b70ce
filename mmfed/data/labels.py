"""Public labels of the catalogue, for tasks that cost no privacy."""

from __future__ import annotations

import numpy as np

from mmfed.data.schema import Catalogue, Categorical, Tags
from mmfed.types import BoolArray

PRICE_BANDS = 5


def public_labels(catalogue: Catalogue) -> dict[str, BoolArray]:
    """[items, classes] by label name, an all-false row where an item's label is unknown.

    "category" is the catalogue's main label; "price_band" the fifth of the known prices an item falls into.
    """
    labels: dict[str, BoolArray] = {}
    category = category_matrix(catalogue)
    if category is not None:
        labels["category"] = category
    known = np.isfinite(catalogue.prices)
    if len(np.unique(catalogue.prices[known])) > 1:
        edges = np.quantile(catalogue.prices[known], np.arange(1, PRICE_BANDS) / PRICE_BANDS)
        bands = np.searchsorted(edges, catalogue.prices, side="right")
        labels["price_band"] = (bands[:, None] == np.arange(PRICE_BANDS)) & known[:, None]
    return labels


def category_matrix(catalogue: Catalogue) -> BoolArray | None:
    """[items, labels] of the catalogue's category; None when it has none."""
    category = catalogue.category
    if isinstance(category, Tags):
        return category.matrix
    if isinstance(category, Categorical):
        return category.codes[:, None] == np.arange(len(category.names))
    return None
