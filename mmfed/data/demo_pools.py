"""Draws from the demo shop's shelves: items of a category, or of one style in it, by popularity."""

from __future__ import annotations

import numpy as np

from mmfed.types import FloatArray, IntArray


class ItemPools:
    """Items grouped by category, inside it by style.

    Args:
        category, style: [items] codes below ``categories`` and ``styles``.
        popularity: [items] positive whole numbers.

    Attributes:
        category_weight: [categories] summed popularity.
    """

    def __init__(self, category: IntArray, categories: int, style: IntArray, styles: int, popularity: IntArray) -> None:
        self._items = np.lexsort((style, category))
        self._edges = np.concatenate([[0], np.cumsum(popularity[self._items])])
        group = category[self._items].astype(np.int64) * styles + style[self._items]
        self._styles = styles
        self._group_start = np.searchsorted(group, np.arange(categories * styles + 1))
        self.category_weight = np.bincount(category, weights=popularity, minlength=categories)
        self._category_edges = np.cumsum(self.category_weight)

    def popular_category(self, uniforms: FloatArray) -> IntArray:
        """[n] categories by the popularity of what is in them."""
        return np.searchsorted(self._category_edges, uniforms * self._category_edges[-1], side="right")

    def draw(self, category: IntArray, style: IntArray, uniforms: FloatArray) -> IntArray:
        """Items [n, k] of each category; only those of ``style`` where it is not -1."""
        group = category * self._styles
        low = self._group_start[np.where(style < 0, group, group + style)]
        high = self._group_start[np.where(style < 0, group + self._styles, group + style + 1)]
        start, end = self._edges[low], self._edges[high]
        mark = start[:, None] + (uniforms * (end - start)[:, None]).astype(np.int64)
        return self._items[np.searchsorted(self._edges, mark, side="right") - 1]
