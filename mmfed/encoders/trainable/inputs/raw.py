"""Raw inputs of a modality, ready for a tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from mmfed.types import BoolArray

Inputs = TypeVar("Inputs")


@dataclass(frozen=True, eq=False)
class RawInputs(Generic[Inputs]):
    """What a tower reads, one row per item.

    Attributes:
        inputs: a tensor or named tuple of tensors whose first axis is the items; rows of absent items hold nothing.
        present: [items] bool, false where the item has no input or it could not be read.
        faults: reason per row that has an input and could not be read.
    """

    inputs: Inputs
    present: BoolArray
    faults: Mapping[int, str]
