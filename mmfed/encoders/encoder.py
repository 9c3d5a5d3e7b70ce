"""What the feature store asks of a frozen encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np

from mmfed.types import BoolArray

Item = TypeVar("Item")
ItemIn = TypeVar("ItemIn", contravariant=True)


@dataclass(frozen=True, eq=False)
class Encoded:
    """Vectors of a few items.

    Attributes:
        values: [inputs, d] float32; rows of absent inputs are zero.
        present: [inputs] bool, false where the input could not be read.
        faults: reason per absent row.
    """

    values: np.ndarray
    present: BoolArray
    faults: Mapping[int, str]


class FrozenEncoder(Protocol[ItemIn]):
    """Turns raw item inputs into vectors with weights that never change.

    ``name`` and ``weights_sha256`` are known without loading the network, so a cache hit costs little; ``encode`` loads
    it on first use.
    """

    @property
    def name(self) -> str: ...

    @property
    def weights_sha256(self) -> str: ...

    def encode(self, inputs: Sequence[ItemIn]) -> Encoded:
        """Vectors of ``inputs``, in that order."""
        ...


@dataclass(frozen=True, eq=False)
class ItemInputs(Generic[Item]):
    """What a modality's encoder is fed, one entry per catalogue item; None where the item has nothing.

    Attributes:
        digests: SHA-256 of each item's input bytes (a constant for None), in catalogue order.
        labels: what to call each input in a note.
    """

    inputs: tuple[Item | None, ...]
    digests: tuple[bytes, ...]
    labels: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 over all inputs in order."""
        return hashlib.sha256(b"".join(self.digests)).hexdigest()

    def rows(self) -> list[int]:
        """Indices of the items that have something to encode."""
        return [index for index, value in enumerate(self.inputs) if value is not None]


_NOTHING = hashlib.sha256(b"nothing").digest()


def text_inputs(titles: Sequence[str | None], texts: Sequence[str | None], item_ids: Sequence[str]) -> ItemInputs[str]:
    """Title and text of every item as one string; items with neither have none."""
    joined = tuple(_join(title, text) for title, text in zip(titles, texts, strict=True))
    digests = tuple(
        _NOTHING if value is None else hashlib.sha256(b"text\0" + _bytes(value)).digest() for value in joined
    )
    return ItemInputs(inputs=joined, digests=digests, labels=tuple(item_ids))


def file_inputs(paths: Sequence[Path | None]) -> ItemInputs[Path]:
    """The picture, sound or video file of every item, fingerprinted by its bytes."""
    digests = tuple(_NOTHING if path is None else _file_digest(path) for path in paths)
    return ItemInputs(inputs=tuple(paths), digests=digests, labels=tuple("" if p is None else p.name for p in paths))


def _join(title: str | None, text: str | None) -> str | None:
    parts = [part.strip() for part in (title, text) if part and part.strip()]
    return ". ".join(parts) or None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")


def _file_digest(path: Path) -> bytes:
    try:
        if not path.is_file():
            return hashlib.sha256(b"missing").digest()
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        return hashlib.sha256(f"unreadable {error.errno}".encode()).digest()
