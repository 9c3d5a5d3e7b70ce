"""The two tables everything else reads: the public ``Catalogue`` and the private ``Interactions``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path

import numpy as np

from mmfed.data.own_content import OwnContent
from mmfed.data.people import People
from mmfed.types import BoolArray, FloatArray, IntArray

BLOCK = 1_000_000  # rows computed at a time where all users are visited


class Action(IntEnum):
    """What a person did with an item; the order is the order of commitment."""

    VIEW = 0
    CART = 1
    BUY = 2
    RATE = 3
    REVIEW = 4


@dataclass(frozen=True, eq=False)
class Categorical:
    """One label per item.

    Attributes:
        codes: [items] int32, index into ``names``; -1 where the label is missing.
        names: the labels.
    """

    codes: IntArray
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Tags:
    """Any number of labels per item (genres, materials).

    Attributes:
        matrix: [items, names] bool; an all-false row means missing.
        names: the labels.
    """

    matrix: BoolArray
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Features:
    """A modality as numbers.

    Attributes:
        values: [items, d] floating; rows of absent items are never read as data.
        present: [items] bool.
    """

    values: FloatArray
    present: BoolArray

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.present.shape != (self.values.shape[0],):
            raise ValueError(f"features {self.values.shape} and presence {self.present.shape} do not belong together")


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The public side of a shop; every column has one entry per item, in the same order.

    Attributes:
        item_ids: [items] the shop's own ids, unique.
        titles, texts: None where missing.
        images: path of the item's picture, None where it has none (unreadable files are found by the image encoder).
        prices: [items] float32, NaN where missing.
        category: the main label, used for diversity and reports; None when the shop has none.
        store: the seller; None when the shop has a single one.
        categorical, tags, numeric: further attribute columns by name (numeric: [items] float32, NaN where missing).
        features: modalities the shop delivers as numbers already, by modality name ("image", "audio", ...).
        audios, videos: path of the item's sound and video file, None where it has none; empty: no item has any.
    """

    item_ids: tuple[str, ...]
    titles: tuple[str | None, ...]
    texts: tuple[str | None, ...]
    images: tuple[Path | None, ...]
    prices: FloatArray
    category: Categorical | Tags | None = None
    store: Categorical | None = None
    categorical: Mapping[str, Categorical] = field(default_factory=dict)
    tags: Mapping[str, Tags] = field(default_factory=dict)
    numeric: Mapping[str, FloatArray] = field(default_factory=dict)
    features: Mapping[str, Features] = field(default_factory=dict)
    audios: tuple[Path | None, ...] = ()
    videos: tuple[Path | None, ...] = ()

    @property
    def size(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    def label(self, item: int) -> str:
        """What to call an item in front of a person: its title, or its id."""
        return self.titles[item] or self.item_ids[item]


@dataclass(frozen=True, eq=False)
class Interactions:
    """The private side: who did what when, columnar, grouped by user and ordered by time inside a user.

    A user is the row range ``indptr[u]:indptr[u + 1]``; there is no user object. Ties in time keep input order.

    Attributes:
        user_ids: [users] the shop's own ids.
        indptr: [users + 1] int64.
        items: [interactions] int32, index into the catalogue.
        times: [interactions] int64, seconds since 1970.
        actions: [interactions] int8, ``Action``.
        values: [interactions] float32, rating or amount; NaN where there is none.
        item_count: size of the catalogue.
    """

    user_ids: Sequence[str]
    indptr: IntArray
    items: IntArray
    times: IntArray
    actions: IntArray
    values: FloatArray
    item_count: int

    @property
    def user_count(self) -> int:
        return len(self.indptr) - 1

    def __len__(self) -> int:
        return int(self.indptr[-1])

    @property
    def lengths(self) -> IntArray:
        """[users] interactions per user."""
        return np.diff(self.indptr)

    def rows(self, user: int) -> slice:
        """The row range of a user."""
        return slice(int(self.indptr[user]), int(self.indptr[user + 1]))

    def user_of_row(self) -> IntArray:
        """[interactions] the user index of every row."""
        return np.repeat(np.arange(self.user_count), self.lengths)

    def only_rows_of(self, users: IntArray) -> Interactions:
        """The same users, but rows of the given ones only (distinct, ascending): memory for these alone."""
        users = np.asarray(users, dtype=np.int64)
        chosen = self.lengths[users]
        lengths = np.zeros(self.user_count, dtype=np.int64)
        lengths[users] = chosen
        starts = np.cumsum(chosen) - chosen
        rows = np.arange(int(chosen.sum())) + np.repeat(self.indptr[:-1][users] - starts, chosen)
        return replace(
            self,
            indptr=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            items=self.items[rows],
            times=self.times[rows],
            actions=self.actions[rows],
            values=self.values[rows],
        )

    def blocks(self, rows: int = BLOCK) -> Iterator[tuple[int, Interactions]]:
        """Whole users in blocks of about so many rows, as views, each with the index of its first user."""
        first = 0
        while first < self.user_count:
            last = int(np.searchsorted(self.indptr, self.indptr[first] + rows, side="right")) - 1
            last = min(max(last, first + 1), self.user_count, first + rows)
            held = slice(int(self.indptr[first]), int(self.indptr[last]))
            yield (
                first,
                replace(
                    self,
                    user_ids=self.user_ids[first:last],
                    indptr=self.indptr[first : last + 1] - self.indptr[first],
                    items=self.items[held],
                    times=self.times[held],
                    actions=self.actions[held],
                    values=self.values[held],
                ),
            )
            first = last

    def users_per_item(self) -> IntArray:
        """[items] number of distinct users of each item."""
        found = np.zeros(self.item_count, dtype=np.int64)
        for _, block in self.blocks():
            cells = np.sort(block.user_of_row() * self.item_count + block.items)
            first = np.concatenate([[True], cells[1:] != cells[:-1]])[: len(cells)]
            found += np.bincount(cells[first] % self.item_count, minlength=self.item_count)
        return found

    def rows_per_item(self) -> IntArray:
        """[items] number of interactions of each item."""
        found = np.zeros(self.item_count, dtype=np.int64)
        for _, block in self.blocks():
            found += np.bincount(block.items, minlength=self.item_count)
        return found

    def rated(self) -> Interactions:
        """The same with ratings as the only values: the value of a view, cart or purchase is an amount."""
        rating = np.isin(self.actions, (Action.RATE, Action.REVIEW))
        return replace(self, values=np.where(rating, self.values, np.float32(np.nan)))

    def keep_rows(self, keep: BoolArray) -> Interactions:
        """The same users with only the rows where ``keep`` [interactions] is true (users may become empty)."""
        counts = np.bincount(self.user_of_row()[keep], minlength=self.user_count)
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return replace(
            self,
            indptr=indptr,
            items=self.items[keep],
            times=self.times[keep],
            actions=self.actions[keep],
            values=self.values[keep],
        )

    def keep_users(self, users: IntArray) -> Interactions:
        """Only the given users (index array), in that order."""
        users = np.asarray(users, dtype=np.int64)
        lengths = self.lengths[users]
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        offsets = np.repeat(self.indptr[:-1][users] - indptr[:-1], lengths)
        rows = np.arange(int(indptr[-1])) + offsets
        return replace(
            self,
            user_ids=[self.user_ids[int(u)] for u in users],
            indptr=indptr,
            items=self.items[rows],
            times=self.times[rows],
            actions=self.actions[rows],
            values=self.values[rows],
        )


@dataclass(frozen=True, eq=False)
class Shop:
    """A catalogue with the interactions on it, and where both came from.

    Attributes:
        notes: what cleaning changed or a reader should know, one line each; shown in reports.
        parts: [interactions] int8, the split that came with the data (0 train, 1 validation, 2 test), row-aligned with
            ``interactions``; None where the source has none.
        own: what people wrote, photographed, said or filmed, private as well; once loaded, of the users of
            ``interactions``. None where the source has none.
        stored: the folder whose memory-mapped files ``interactions`` are; None where they are in memory.
        people: what people say about themselves, private as well; once loaded, of the users of ``interactions``. None
            where nobody was asked (``data.people``).
    """

    name: str
    catalogue: Catalogue
    interactions: Interactions
    notes: tuple[str, ...] = ()
    parts: IntArray | None = None
    own: OwnContent | None = None
    stored: Path | None = None
    people: People | None = None


@dataclass(frozen=True, eq=False)
class Split:
    """Train, validation and test over the same users and catalogue.

    At test time a user's history is train followed by validation (``before_test``).
    """

    train: Interactions
    validation: Interactions
    test: Interactions
    description: str

    @property
    def before_test(self) -> Interactions:
        """Train followed by validation, per user."""
        return concatenate(self.train, self.validation)

    def before_test_of(self, users: IntArray | None) -> Interactions:
        """``before_test`` of some users (distinct, ascending), the others without rows; None for everyone."""
        if users is None:
            return self.before_test
        return concatenate(self.train.only_rows_of(users), self.validation.only_rows_of(users))


def concatenate(first: Interactions, second: Interactions) -> Interactions:
    """Per user, the rows of ``first`` followed by the rows of ``second`` (same users)."""
    if first.user_ids is not second.user_ids and list(first.user_ids) != list(second.user_ids):
        raise ValueError("both sides must hold the same users in the same order")
    users = np.concatenate([first.user_of_row(), second.user_of_row()])
    order = np.argsort(users, kind="stable")
    indptr = first.indptr + second.indptr

    def joined(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.concatenate([a, b])[order]

    return replace(
        first,
        indptr=indptr,
        items=joined(first.items, second.items),
        times=joined(first.times, second.times),
        actions=joined(first.actions, second.actions),
        values=joined(first.values, second.values),
    )


def group_by_user(
    *,
    user_ids: Sequence[str],
    users: IntArray,
    items: IntArray,
    times: IntArray,
    actions: IntArray,
    values: FloatArray,
    item_count: int,
) -> Interactions:
    """Interactions from unordered columns: grouped by user, ordered by time, ties in input order.

    Args:
        user_ids: [user_count] id of each user index.
        users: [interactions] user index of each row; the other columns are row-aligned.
    """
    order = np.lexsort((times, users))  # stable: ties keep input order
    counts = np.bincount(users, minlength=len(user_ids))
    return Interactions(
        user_ids=list(user_ids),
        indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        items=np.asarray(items, dtype=np.int32)[order],
        times=np.asarray(times, dtype=np.int64)[order],
        actions=np.asarray(actions, dtype=np.int8)[order],
        values=np.asarray(values, dtype=np.float32)[order],
        item_count=item_count,
    )
