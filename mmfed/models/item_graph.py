"""The frozen item-item graph of the public catalogue: each item's nearest by content (Zhou and Shen 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from mmfed.data.schema import Features
from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.protocol import index_tie_keys
from mmfed.types import FloatArray, IntArray

CELLS_AT_ONCE = 2**24  # similarities held at once (64 MiB)
_GRID = 2.0**20  # similarities closer than 1e-6 are equal: below it lies the rounding of the product


@dataclass(frozen=True, eq=False)
class ItemGraph:
    """Neighbours of every item, nearest first; directed: j may be a neighbour of i without the reverse.

    Attributes:
        indices: [items, neighbours] int64; the item itself where it has no further neighbour.
        weights: [items, neighbours] float32, 1 / sqrt(degree_i · degree_j) with degree = number of neighbours; 0 where
            there is none.
    """

    indices: IntArray
    weights: FloatArray

    @property
    def item_count(self) -> int:
        return len(self.indices)

    def matrix(self) -> sparse.csr_array:
        """[items, items] float32, row i holds the weights of i's neighbours."""
        rows, columns = np.nonzero(self.weights)
        cells = (rows, self.indices[rows, columns])
        return sparse.csr_array((self.weights[rows, columns], cells), shape=(self.item_count, self.item_count))


def content_graph(
    features: Mapping[str, Features],
    *,
    neighbours: int,
    weights: Mapping[str, float] | None = None,
    tie_key: FloatArray | None = None,
) -> ItemGraph:
    """The nearest neighbours of every item by mean cosine over the modalities.

    A modality that either item lacks adds nothing to their similarity, and only similarities above 0 make an edge: an
    item without any modality has no neighbour and is nobody's. Edges are not weighted by similarity, as published.
    Equal similarities are ordered by a hash, never by index, which may follow time.

    Args:
        features: by modality, as the feature store gives them (reduced and whitened; not centred again here).
        neighbours: K, columns of the result.
        weights: share of each modality in the mean, 1 where unnamed; 0 leaves a modality out.
        tie_key: [items] uniforms in [0, 1), one per item, as ``evaluation.protocol.tie_keys`` gives for item ids;
            None hashes the index.

    Raises:
        MmfedError: no modality, unequal item counts, an unknown or negative weight, values that are not finite.
    """
    unit = _unit_vectors(features, weights or {}, neighbours)
    items = len(unit)
    ties = index_tie_keys(items, 0) if tie_key is None else np.asarray(tie_key, dtype=np.float64)
    indices = np.tile(np.arange(items, dtype=np.int64)[:, None], (1, neighbours))
    linked = np.zeros((items, neighbours), dtype=bool)
    height = max(1, CELLS_AT_ONCE // max(1, items))
    for start in range(0, items, height):
        block = np.arange(start, min(items, start + height))
        similarity = np.round((unit[block] @ unit.T) * np.float32(_GRID))
        similarity[np.arange(len(block)), block] = 0.0
        rows, place, found = _nearest(similarity, neighbours, ties, block)
        indices[block[rows], place] = found
        linked[block[rows], place] = True
    scale = 1.0 / np.sqrt(np.maximum(linked.sum(axis=1), 1))
    edge_weights = np.where(linked, scale[:, None] * scale[indices], 0.0).astype(np.float32)
    return ItemGraph(indices, edge_weights)


def _unit_vectors(features: Mapping[str, Features], weights: Mapping[str, float], neighbours: int) -> np.ndarray:
    """[items, all widths] float32 whose inner products are the weighted mean cosines; absent parts are 0."""
    unknown = sorted(set(weights) - set(features))
    if neighbours < 1 or unknown or any(not 0 <= weight < np.inf for weight in weights.values()):
        raise MmfedError(
            ExitCode.CONFIG,
            f"item graph: neighbours {neighbours} and weights {dict(weights)} do not fit modalities {list(features)}.",
            "take neighbours >= 1 and weights >= 0 of modalities that are there.",
        )
    shares = {name: float(weights.get(name, 1.0)) for name in features}
    shares = {name: share for name, share in shares.items() if share > 0}
    if not shares or len({len(features[name].present) for name in shares}) > 1:
        raise MmfedError(
            ExitCode.FEATURES,
            f"item graph: no modality to compare items by, or unequal numbers of items ({sorted(shares)}).",
            "give at least one modality of one catalogue; see [features] modalities.",
        )
    total = sum(shares.values())
    parts = []
    for name, share in shares.items():
        values = np.where(features[name].present[:, None], features[name].values, 0.0).astype(np.float64)
        if not np.isfinite(values).all():
            raise MmfedError(
                ExitCode.FEATURES,
                f"item graph: features '{name}' of a present item hold NaN or infinity.",
                "mark such items as absent.",
            )
        # The largest entry first, so that squares neither overflow nor vanish.
        largest = np.abs(values).max(axis=1, initial=0.0, keepdims=True)
        values /= np.where(largest > 0, largest, 1.0)
        norms = np.linalg.norm(values, axis=1, keepdims=True)
        parts.append((values * (np.sqrt(share / total) / np.where(norms > 0, norms, 1.0))).astype(np.float32))
    return np.concatenate(parts, axis=1)


def _nearest(
    similarity: FloatArray, neighbours: int, ties: FloatArray, block: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    """The edges of a block of rows: row in the block, place among its neighbours, item; all [edges]."""
    least = np.ones((len(similarity), 1), dtype=similarity.dtype)
    if neighbours < similarity.shape[1]:
        cut = similarity.shape[1] - neighbours
        least = np.maximum(np.partition(similarity, cut, axis=1)[:, cut, None], least)
    rows, items = np.nonzero(similarity >= least)
    # Equal items take the next ones on a hashed circle: one global order would make the same few everyone's neighbours.
    circle = (ties[items] - ties[block[rows]]) % 1.0
    order = np.lexsort((circle, -similarity[rows, items], rows))
    rows, items = rows[order], items[order]
    counts = np.bincount(rows, minlength=len(block))
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = place < neighbours
    return rows[kept], place[kept], items[kept]
