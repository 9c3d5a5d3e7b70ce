"""Word2Vec and GloVe files of every form, and what is wrong with the others."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("gensim")

from gensim.models import KeyedVectors
from tower_cases import generator

from mmfed.encoders.trainable.inputs.tokens import Vocabulary
from mmfed.encoders.trainable.inputs.word_vectors import word_table
from mmfed.encoders.trainable.lstm import TextLstm
from mmfed.errors import ExitCode, MmfedError

VOCABULARY = Vocabulary(("red", "shoe", "paris", "unheard"))
FORMS = ["vectors.txt", "vectors.txt.gz", "vectors.bin", "vectors.bin.gz", "glove.txt", "glove.txt.gz"]


def vectors() -> KeyedVectors:
    made = KeyedVectors(vector_size=5)
    made.add_vectors(["red", "shoe", "Paris", "other"], np.random.default_rng(0).normal(2.0, 3.0, (4, 5)).astype("f4"))
    return made


def written(folder: Path, name: str) -> Path:
    plain = folder / name.removesuffix(".gz")
    vectors().save_word2vec_format(str(plain), binary=".bin" in name, write_header=not name.startswith("glove"))
    if name.endswith(".gz"):
        (folder / name).write_bytes(gzip.compress(plain.read_bytes()))
    return folder / name


@pytest.mark.parametrize("name", FORMS)
def test_known_words_have_the_file_s_vectors_up_to_one_scale(tmp_path: Path, name: str) -> None:
    table, source = word_table(VOCABULARY, written(tmp_path, name), generator=generator()), vectors()
    assert table.found == 3
    assert table.values.shape == (6, 5)
    known = torch.from_numpy(np.stack([source[word] for word in ("red", "shoe", "Paris")]))
    torch.testing.assert_close(table.values[2:5] / 0.3, known / known.std(correction=0), rtol=1e-4, atol=1e-5)
    assert float(table.values[2:5].std(correction=0)) == pytest.approx(0.3, rel=1e-5)
    assert table.values[0].abs().max() == 0


def test_missing_words_are_drawn_from_the_generator_alone(tmp_path: Path) -> None:
    path, before = written(tmp_path, "vectors.txt"), torch.get_rng_state()
    first, same, other = (word_table(VOCABULARY, path, generator=generator(seed)).values for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[2:5], other[2:5])
    assert (first[[1, 5]] != other[[1, 5]]).all()
    assert first[5].abs().max() < 3


def test_a_tower_starts_from_them(tmp_path: Path) -> None:
    table = word_table(VOCABULARY, written(tmp_path, "glove.txt"), generator=generator()).values
    trained = TextLstm(4, words=VOCABULARY.size, vectors=table, generator=generator())
    kept = TextLstm(4, words=VOCABULARY.size, vectors=table, train_words=False, generator=generator())
    assert torch.equal(trained.words.table.weight, table)
    ids = torch.tensor([[2, 3, 0]])
    assert torch.equal(trained(ids), kept(ids))
    assert not any("words" in name for name, _ in kept.named_parameters())
    with pytest.raises(ValueError, match="one row per word"):
        TextLstm(4, words=3, vectors=table, generator=generator())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("absent.txt", None),
        ("empty.txt", b""),
        ("ragged.txt", b"red 1 2 3\nshoe 1 2\n"),
        ("words.txt", b"this is no vector file at all\nreally not\n"),
        ("cut.bin", b"1000 50\nred \x00\x01"),
        ("lying.txt", b"99999999 3\nred 1 2 3\n"),
        ("huge.bin", b"4000000000 4000000000\nred "),
        ("negative.txt", b"-3 -2\nred 1 2\n"),
        ("letters.txt", b"red a b c\n"),
        ("gzip.txt.gz", b"no gzip"),
        ("own.kv", b"\x80\x04."),
        ("own.model", b"\x80\x04."),
        ("binary.txt", bytes(range(256)) * 4),
    ],
)
def test_unusable_files_are_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MmfedError, match="not usable as word vectors") as error:
        word_table(VOCABULARY, tmp_path / name, generator=generator())
    assert error.value.code is ExitCode.FEATURES


def test_vectors_of_another_language_are_named(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("rot 1 2\nschuh 3 4\n")
    with pytest.raises(MmfedError, match="none of the catalogue's 4 words"):
        word_table(VOCABULARY, tmp_path / "other.txt", generator=generator())
    (tmp_path / "nan.txt").write_text("red nan 2\nshoe inf 4\n")
    with pytest.raises(MmfedError, match="none of the catalogue's 4 words"):
        word_table(VOCABULARY, tmp_path / "nan.txt", generator=generator())
