"""The contract of the baselines every table is compared with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import numpy as np
from scipy import sparse

from mmfed.data.schema import Features, Interactions
from mmfed.errors import ExitCode, MmfedError
from mmfed.types import FloatArray, IntArray

BaselineKind = Literal["centralised", "no data"]

KIND_NOTES: dict[BaselineKind, str] = {
    "centralised": "centralised, no privacy",
    "no data": "sees no data",
}


class Baseline(ABC):
    """A recommender fitted in one place, without federation or privacy.

    Attributes:
        name: its name in tables and configuration.
        kind: what it sees; tables print ``KIND_NOTES[kind]`` beside it.
        drawn: whether the seed changes the model: such a baseline is fitted once per seed, others once.
        reads_content: whether it needs the catalogue's features.
    """

    name: ClassVar[str]
    kind: ClassVar[BaselineKind] = "centralised"
    drawn: ClassVar[bool] = False
    reads_content: ClassVar[bool] = False

    @abstractmethod
    def fit(self, train: Interactions, *, seed: int, features: Mapping[str, Features] | None = None) -> Self:
        """Learn from ``train`` and the public catalogue; the same seed gives the same model.

        Args:
            features: the catalogue's modalities as the feature store gives them, items in the order of ``train``.

        Raises:
            MmfedError: a baseline that ``reads_content`` gets none, or features of another catalogue.
        """

    @abstractmethod
    def score(self, history: Interactions, users: IntArray) -> FloatArray:
        """Scores of some users given what is known of them now: [len(users), items].

        Args:
            history: the users of ``fit`` in the same order; at test time train followed by validation.
            users: [n] user indices into ``history``.
        """


def not_fitted(baseline: Baseline) -> MmfedError:
    """The fault of scoring before fitting."""
    return MmfedError(
        ExitCode.FAULT, f"baseline '{baseline.name}' has not been fitted.", "call fit(train, seed=...) first."
    )


def check_catalogue(baseline: Baseline, fitted_items: int, history: Interactions) -> None:
    """Refuse a history over another catalogue.

    Raises:
        MmfedError: the number of items differs from the one at fit.
    """
    if history.item_count != fitted_items:
        raise MmfedError(
            ExitCode.FAULT,
            f"baseline '{baseline.name}' was fitted on {fitted_items} items, the history has {history.item_count}.",
            "fit and score on one catalogue.",
        )


def needed_content(
    baseline: Baseline, features: Mapping[str, Features] | None, train: Interactions
) -> Mapping[str, Features]:
    """The features of a baseline that cannot do without.

    Raises:
        MmfedError: there are none, or they belong to another catalogue.
    """
    if not features:
        raise MmfedError(
            ExitCode.FEATURES,
            f"baseline '{baseline.name}' learns from item content and this catalogue has no features.",
            "name a modality that the shop has in features.modalities, or leave the baseline out.",
        )
    for name, one in features.items():
        if len(one.present) != train.item_count:
            raise MmfedError(
                ExitCode.FAULT,
                f"features '{name}' cover {len(one.present)} items, the interactions {train.item_count}.",
                "give features and interactions of one catalogue.",
            )
    return features


def history_matrix(history: Interactions, users: IntArray, *, decay: float = 1.0) -> sparse.csr_array:
    """Histories as rows: [len(users), items] float64, decay ** (events after the item's last one), 0 for unknown items.

    With decay 1 it is the binary history. A repeated item counts once, at its latest position.
    """
    users = np.asarray(users, dtype=np.int64)
    lengths = history.lengths[users]
    rows = np.repeat(np.arange(len(users)), lengths)
    ends = np.cumsum(lengths)
    age = np.repeat(ends, lengths) - 1 - np.arange(len(rows))
    items = history.items[np.repeat(history.indptr[:-1][users] - (ends - lengths), lengths) + np.arange(len(rows))]
    # Latest first, so that unique keeps the latest event of each cell.
    cells = (rows * history.item_count + items)[::-1]
    kept, first = np.unique(cells, return_index=True)
    weights = np.power(float(decay), age[::-1][first])
    shape = (len(users), history.item_count)
    return sparse.csr_array((weights, (kept // history.item_count, kept % history.item_count)), shape=shape)
