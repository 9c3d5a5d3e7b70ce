"""What people say about themselves (age band, region, …), all of it optional: private like the interactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmfed.person_attributes import PersonAttribute
from mmfed.types import IntArray

MISSING = -1


@dataclass(frozen=True, eq=False)
class People:
    """The answers of some users; they never leave the device.

    Attributes:
        user_ids: [users] the shop's own ids.
        attributes: the questions, public.
        values: [users, attributes] int64, which of the listed answers; ``MISSING`` where there is none of them.
    """

    user_ids: Sequence[str]
    attributes: tuple[PersonAttribute, ...]
    values: IntArray

    @property
    def rows(self) -> IntArray:
        """[users, attributes] int64 row of each answer in a table of all answers of all attributes."""
        sizes = [one.size for one in self.attributes]
        starts = np.cumsum([0, *sizes[:-1]], dtype=np.int64)[: len(sizes)]
        return np.where(self.values == MISSING, MISSING, self.values + starts)

    def for_users(self, user_ids: Sequence[str]) -> People:
        """The answers of these users, in that order; whoever is not here gave none."""
        place = {str(user): index for index, user in enumerate(self.user_ids)}
        found = np.array([place.get(str(user), len(place)) for user in user_ids], dtype=np.int64)
        nothing = np.full((1, len(self.attributes)), MISSING, dtype=np.int64)
        return People(list(user_ids), self.attributes, np.concatenate([self.values, nothing])[found])

    def notes(self) -> tuple[str, ...]:
        """One line per attribute: how many answered."""
        count = len(self.user_ids)
        answered = (self.values != MISSING).sum(0)
        return tuple(
            f"{one.name}: known of {number:,} of {count:,} users ({one.size} values)"
            for one, number in zip(self.attributes, answered.tolist(), strict=True)
        )


def nobody(attributes: tuple[PersonAttribute, ...]) -> People:
    """No user at all."""
    return People([], attributes, np.zeros((0, len(attributes)), dtype=np.int64))
