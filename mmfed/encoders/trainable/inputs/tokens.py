"""Texts as word numbers of a vocabulary made from the public catalogue."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mmfed.encoders.trainable.inputs.raw import RawInputs
from mmfed.encoders.trainable.words import PADDING

UNKNOWN = 1  # number of every word outside the vocabulary
LONGEST_WORD = 40  # characters; longer ones are codes and links, cut so that they cost no memory

# Scripts written without spaces: every sign is a word.
_SIGNS = "\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_SIGNS}]|[^\W{_SIGNS}]+")


@dataclass(frozen=True)
class Vocabulary:
    """Words by number. Made from catalogue texts only: a word that stands here is known to everybody.

    Attributes:
        words: number 2 is ``words[0]``; 0 is padding and 1 every other word.
    """

    words: tuple[str, ...]

    @property
    def size(self) -> int:
        """Numbers in use, padding and unknown included."""
        return len(self.words) + 2

    @property
    def digest(self) -> str:
        """Hex SHA-256 over the words in order: towers trained on different vocabularies do not fit together."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Number of each word."""
        return {word: number for number, word in enumerate(self.words, start=UNKNOWN + 1)}


def split_words(text: str) -> list[str]:
    """Words of a text in order, without punctuation and case; letters in compatible forms count as the same."""
    plain = unicodedata.normalize("NFKC", text.encode("utf-8", "replace").decode()).casefold()
    return [word[:LONGEST_WORD] for word in _WORD.findall(plain)]


def catalogue_vocabulary(texts: Sequence[str | None], *, most: int = 20_000, least: int = 1) -> Vocabulary:
    """The ``most`` most frequent words that occur at least ``least`` times, ties in alphabetical order.

    Give it the public catalogue's titles and descriptions only. Queries and reviews are private: a vocabulary made from
    them would tell what people wrote.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split_words(text or ""))
    ranked = sorted((-count, word) for word, count in counts.items() if count >= least)
    return Vocabulary(tuple(word for _, word in ranked[:most]))


def token_ids(texts: Sequence[str | None], vocabulary: Vocabulary, *, longest: int = 64) -> RawInputs[Tensor]:
    """Word numbers of the texts, [items, tokens] int64, padded at the end with 0 to the longest text, at most
    ``longest`` words; texts without a word are absent."""
    rows = [[vocabulary.numbers.get(word, UNKNOWN) for word in split_words(text or "")[:longest]] for text in texts]
    width = max(1, max((len(row) for row in rows), default=1))
    values = np.full((len(rows), width), PADDING, dtype=np.int64)
    for index, row in enumerate(rows):
        values[index, : len(row)] = row
    present = values[:, 0] != PADDING
    faults = {row: "no word in it" for row, text in enumerate(texts) if text is not None and not present[row]}
    return RawInputs(torch.from_numpy(values), present, faults)
