"""Start values of a word table from a Word2Vec or GloVe file."""

from __future__ import annotations

import struct
import traceback
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfed.encoders.extras import require
from mmfed.encoders.trainable.inputs.tokens import Vocabulary
from mmfed.encoders.trainable.words import PADDING
from mmfed.errors import ExitCode, MmfedError

_PICKLED = (".kv", ".model", ".pkl", ".pickle", ".npy")  # gensim's own formats run code when they are read
# What gensim's readers raise on damaged files, besides refusing them.
_UNREADABLE = (
    OSError, EOFError, ValueError, TypeError, LookupError, AssertionError, MemoryError, OverflowError, struct.error,
    zlib.error,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class WordTable:
    """Word vectors of a vocabulary.

    Attributes:
        values: [words, d] float32; padding is zero.
        found: how many words of the vocabulary the file has.
    """

    values: Tensor
    found: int


def word_table(vocabulary: Vocabulary, path: Path, *, generator: torch.Generator, most: int = 500_000) -> WordTable:
    """Vectors of the vocabulary's words from a file, and random ones of the same mean and spread for the others.

    Read are Word2Vec files, text or binary (``.bin``), and GloVe text files, plain or gzipped (``.gz``). A word is
    looked up as it is, capitalised and in capitals. Values are scaled so that their standard deviation is 0.3, whatever
    the file's own scale.

    Args:
        generator: of the missing words' vectors.
        most: vectors read from the file's beginning; files are sorted by frequency.

    Raises:
        MmfedError: gensim is missing, the file is missing, damaged, in a pickled format or knows no word of the
            vocabulary.
    """
    require("vectors", "gensim")
    vectors = _read(path, most)
    table = torch.randn(vocabulary.size, int(vectors.vector_size), generator=generator)
    rows, values = [], []
    for word, number in vocabulary.numbers.items():
        form = next((form for form in (word, word.capitalize(), word.upper()) if form in vectors.key_to_index), None)
        if form is not None:
            value = torch.from_numpy(vectors[form].copy())
            if torch.isfinite(value).all():
                rows.append(number)
                values.append(value)
    if not rows:
        raise MmfedError(
            ExitCode.FEATURES,
            f"{path}: none of the catalogue's {len(vocabulary.words)} words stands in it.",
            "give word vectors of the language of the shop's texts.",
        )
    known = torch.stack(values).to(torch.float32)
    mean, spread = known.mean(0), known.std(0, correction=0)
    table = mean + spread * table
    table[rows] = known
    table = table * (0.3 / known.std(correction=0).clamp(min=1e-6))
    table[PADDING] = 0.0
    return WordTable(table, len(rows))


def _read(path: Path, most: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from gensim.models import KeyedVectors

        suffixes = path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]
        if any(suffix in _PICKLED for suffix in suffixes):
            raise _unusable(path, "a pickled file runs code when it is read")
        try:
            binary = ".bin" in suffixes
            header = binary or _has_header(path)
            return KeyedVectors.load_word2vec_format(
                str(path), binary=binary, no_header=not header, limit=most, unicode_errors="replace"
            )
        except _UNREADABLE as error:
            traceback.clear_frames(error.__traceback__)  # gensim leaves the file open in them
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise _unusable(path, "no such file" if isinstance(error, FileNotFoundError) else reason) from None


def _has_header(path: Path) -> bool:
    """Whether a text file begins with "words dimensions", as Word2Vec's does and GloVe's does not."""
    from smart_open import open as open_any

    with open_any(str(path), "rb") as file:
        return len(file.readline(1 << 20).split()) == 2


def _unusable(path: Path, reason: str) -> MmfedError:
    return MmfedError(
        ExitCode.FEATURES,
        f"{path}: not usable as word vectors ({reason}).",
        "give a Word2Vec file (text or .bin) or a GloVe text file; from gensim, save with save_word2vec_format.",
    )
