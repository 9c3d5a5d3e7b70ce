"""What people may say about themselves, as a shop lists it: bands and categories are public, the answers private."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator

AGE_BANDS = (18.0, 25.0, 35.0, 45.0, 55.0)
MOST_VALUES = 1000  # of one attribute; every value is a row of the model


@dataclass(frozen=True)
class PersonAttribute:
    """One question and its possible answers; one that is not listed counts as none.

    Attributes:
        name: of the column in the file of people.
        bands: where a number is cut, ascending; n edges make n + 1 bands, and a number on an edge belongs above it.
        labels: the categories, where it is no number.
    """

    name: str
    bands: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """How many answers there are; 0 where the shop listed none."""
        return len(self.bands) + 1 if self.bands else len(self.labels)


def read_attributes(tree: Any) -> tuple[PersonAttribute, ...]:
    """Attributes from a table as TOML holds it: a list of numbers is where bands begin, a list of strings categories.

    Raises:
        ValueError: a name or a list is of no use.
    """
    if isinstance(tree, tuple) and all(isinstance(one, PersonAttribute) for one in tree):
        return tree
    if not isinstance(tree, Mapping):
        raise ValueError("write a table of lists, such as age = [18, 25, 35] and region = ['north', 'south']")
    return tuple(_attribute(str(name), listed) for name, listed in tree.items())


def written_attributes(attributes: Sequence[PersonAttribute]) -> dict[str, list[float] | list[str]]:
    """Inverse of ``read_attributes``."""
    return {one.name: list(one.bands) or list(one.labels) for one in attributes}


PersonAttributes = Annotated[
    tuple[PersonAttribute, ...], PlainValidator(read_attributes), PlainSerializer(written_attributes)
]


def _attribute(name: str, listed: Any) -> PersonAttribute:
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", name) or name == "user":
        raise ValueError(f"{name!r} is no name of an attribute: small letters, digits, - and _, and not 'user'")
    if listed == "default" and name == "age":
        return PersonAttribute(name, bands=AGE_BANDS)
    if not isinstance(listed, list | tuple):
        default = " (or 'default')" if name == "age" else ""
        raise ValueError(f"{name} = {listed!r}: list its values{default}")
    if len(listed) > MOST_VALUES:
        raise ValueError(f"{name} lists {len(listed)} values; {MOST_VALUES} are the most")
    if all(isinstance(one, int | float) and not isinstance(one, bool) for one in listed):
        edges = tuple(float(one) for one in listed)
        finite = all(math.isfinite(one) for one in edges)
        if not finite or any(above <= below for below, above in pairwise(edges)):
            raise ValueError(f"{name}: bands begin at ascending finite numbers, such as [18, 25, 35]")
        return PersonAttribute(name, bands=edges)
    if not all(isinstance(one, str) for one in listed):
        raise ValueError(f"{name}: list numbers (where bands begin) or strings (categories), not both")
    labels = tuple(one.strip() for one in listed)
    if "" in labels or len(set(labels)) < len(labels):
        raise ValueError(f"{name}: every category is listed once, and an empty one is none")
    return PersonAttribute(name, labels=labels)
