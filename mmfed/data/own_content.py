"""What a person wrote, photographed, said or filmed: content without an item, private like the interactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfed.types import BoolArray, IntArray

if TYPE_CHECKING:
    from mmfed.data.schema import Interactions

NO_ITEM = -1
KINDS = ("text", "image", "audio", "video")


@dataclass(frozen=True, eq=False)
class OwnContent:
    """Search queries, reviews, photos, voice searches and clips, columnar, by user and in time order inside a user.

    A row is an event that carries some modalities. It never leaves the device, is never recommended or predicted, and
    never counts as touching an item.

    Attributes:
        user_ids: [users] the shop's own ids.
        indptr: [users + 1] int64; a user is the row range ``indptr[u]:indptr[u + 1]``.
        times: [rows] int64, seconds since 1970; a row counts for what happens later than it.
        items: [rows] int32, the item a review is about; ``NO_ITEM`` for a query or photo of no item.
        texts: [rows] None where there is none.
        images, audios, videos: [rows] path of the file, None where there is none.
    """

    user_ids: Sequence[str]
    indptr: IntArray
    times: IntArray
    items: IntArray
    texts: tuple[str | None, ...]
    images: tuple[Path | None, ...]
    audios: tuple[Path | None, ...]
    videos: tuple[Path | None, ...]

    def __len__(self) -> int:
        return int(self.indptr[-1])

    def of(self, modality: str) -> tuple[Any, ...]:
        """[rows] one of ``KINDS``; texts or paths."""
        return {"text": self.texts, "image": self.images, "audio": self.audios, "video": self.videos}[modality]

    def user_of_row(self) -> IntArray:
        """[rows] the user index of every row."""
        return np.repeat(np.arange(len(self.user_ids)), np.diff(self.indptr))

    def keep_rows(self, keep: BoolArray) -> OwnContent:
        """The same users with only the rows where ``keep`` [rows] is true."""
        counts = np.bincount(self.user_of_row()[keep], minlength=len(self.user_ids))
        return self._chosen(self.user_ids, counts, np.flatnonzero(keep))

    def for_users(self, user_ids: Sequence[str]) -> OwnContent:
        """The rows of these users, in that order; whoever wrote nothing has no rows."""
        place = {str(user): index for index, user in enumerate(self.user_ids)}
        found = np.array([place.get(str(user), -1) for user in user_ids], dtype=np.int64)
        lengths = np.diff(self.indptr, append=self.indptr[-1])[found]  # the last is 0, for users who are not here
        starts = np.repeat(self.indptr[found] - np.cumsum(lengths) + lengths, lengths)
        return self._chosen(user_ids, lengths, np.arange(len(starts)) + starts)

    def settled(self, interactions: Interactions) -> OwnContent:
        """The same rows, a review dated before its user's first touch of the item moved to that moment.

        Clocks differ; without this a misdated review would tell the very interaction that is to be predicted.

        Args:
            interactions: of the same users.
        """
        if not (self.items != NO_ITEM).any():
            return self
        cells = interactions.user_of_row() * interactions.item_count + interactions.items
        known, first = np.unique(cells, return_index=True)
        own = self.user_of_row() * interactions.item_count + self.items
        place = np.minimum(np.searchsorted(known, own), max(len(known) - 1, 0))
        about = (self.items != NO_ITEM) & (known[place] == own) if len(known) else np.zeros(len(self), dtype=bool)
        times = self.times.copy()
        times[about] = np.maximum(times[about], interactions.times[first[place[about]]])
        order = np.lexsort((times, self.user_of_row()))
        return replace(self, times=times)._chosen(self.user_ids, np.diff(self.indptr), order)

    def _chosen(self, user_ids: Sequence[str], counts: IntArray, rows: IntArray) -> OwnContent:
        return OwnContent(
            user_ids=list(user_ids),
            indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            times=self.times[rows],
            items=self.items[rows],
            **{f"{kind}s": tuple(self.of(kind)[row] for row in rows.tolist()) for kind in KINDS},
        )


def own_content(
    *,
    user_ids: Sequence[str],
    users: IntArray,
    times: IntArray,
    items: IntArray,
    contents: dict[str, Sequence[Any]],
) -> OwnContent:
    """Own content from unordered columns: by user, in time order, ties in input order.

    Args:
        users: [rows] user index; the other columns are row-aligned.
        contents: by kind of ``KINDS``; one that is missing is None throughout.
    """
    order = np.lexsort((times, users))
    nothing = (None,) * len(order)
    found = {kind: contents.get(kind, nothing) for kind in KINDS}
    return OwnContent(
        user_ids=list(user_ids),
        indptr=np.concatenate([[0], np.cumsum(np.bincount(users, minlength=len(user_ids)))]).astype(np.int64),
        times=np.asarray(times, dtype=np.int64)[order],
        items=np.asarray(items, dtype=np.int32)[order],
        **{f"{kind}s": tuple(column[row] for row in order.tolist()) for kind, column in found.items()},
    )
