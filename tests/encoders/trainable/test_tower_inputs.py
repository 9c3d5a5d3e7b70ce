"""Raw inputs: what is in the catalogue becomes tensors, and what is not is marked absent."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tower_cases import generator

from mmfed.data.schema import Catalogue, Categorical, Tags
from mmfed.encoders.trainable.attribute_embed import AttributeEmbedding
from mmfed.encoders.trainable.inputs.clips import clip_frames
from mmfed.encoders.trainable.inputs.columns import attribute_columns
from mmfed.encoders.trainable.inputs.mel import recording_frames
from mmfed.encoders.trainable.inputs.pixels import picture_pixels
from mmfed.encoders.trainable.inputs.tokens import UNKNOWN, Vocabulary, catalogue_vocabulary, split_words, token_ids


def test_pictures_become_small_pixels_and_bad_files_are_named(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), (250, 10, 20)).save(tmp_path / "red.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    raw = picture_pixels([tmp_path / "red.png", None, tmp_path / "broken.png", tmp_path / "absent.jpg"])
    assert raw.inputs.shape == (4, 3, 32, 32)
    assert raw.inputs.dtype == torch.uint8
    assert raw.inputs[0].float().mean((1, 2)).tolist() == pytest.approx([250, 10, 20], abs=1)
    assert raw.present.tolist() == [True, False, False, False]
    assert set(raw.faults) == {2, 3}
    assert picture_pixels([]).inputs.shape == (0, 3, 32, 32)


def test_words_lose_case_punctuation_and_form() -> None:
    assert split_words("Red-SHOES, ﬁne! naïve 42") == ["red", "shoes", "fine", "naïve", "42"]
    assert split_words("赤い靴 shoe") == ["赤", "い", "靴", "shoe"]
    assert split_words("Straße \ud800 _") == ["strasse", "_"]
    assert len(split_words("x" * 10_000)[0]) == 40


def test_the_vocabulary_is_ordered_by_frequency_then_alphabet() -> None:
    vocabulary = catalogue_vocabulary(["b a a", None, "c b a d"], most=3)
    assert vocabulary.words == ("a", "b", "c")
    assert vocabulary.size == 5
    assert catalogue_vocabulary(["c b a", "a"], least=2).words == ("a",)
    assert catalogue_vocabulary([]).size == 2
    assert vocabulary.digest == Vocabulary(("a", "b", "c")).digest != Vocabulary(("a", "c", "b")).digest


def test_token_ids_are_padded_at_the_end_and_cut() -> None:
    vocabulary = Vocabulary(("red", "shoe"))
    raw = token_ids(["Red shoe", None, "a green SHOE", "...", "shoe " * 100], vocabulary, longest=4)
    assert raw.inputs.tolist() == [[2, 3, 0, 0], [0] * 4, [1, 1, 3, 0], [0] * 4, [3] * 4]
    assert raw.inputs.dtype == torch.int64
    assert raw.present.tolist() == [True, False, True, False, True]
    assert raw.faults == {3: "no word in it"}
    assert UNKNOWN == 1
    assert token_ids([], vocabulary).inputs.shape == (0, 1)
    assert token_ids([None], vocabulary).inputs.tolist() == [[0]]


def test_recordings_become_frames_of_their_length(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    for name, seconds in (("short", 0.2), ("long", 0.5)):
        time = np.arange(int(16_000 * seconds)) / 16_000
        soundfile.write(tmp_path / f"{name}.wav", np.sin(2 * np.pi * 440 * time), 16_000)
    (tmp_path / "noise.wav").write_bytes(b"RIFF nothing")
    paths = [tmp_path / "short.wav", None, tmp_path / "noise.wav", tmp_path / "long.wav"]
    raw = recording_frames(paths, longest=30)
    assert raw.present.tolist() == [True, False, False, True]
    assert set(raw.faults) == {2}
    assert raw.inputs.lengths.tolist()[1:] == [0, 0, 30]
    assert 15 <= raw.inputs.lengths[0] <= 20
    assert raw.inputs.values.shape[:2] == (4, 30)
    assert torch.isfinite(raw.inputs.values).all()
    assert raw.inputs.values[0, int(raw.inputs.lengths[0]) :].abs().max() == 0
    nothing = recording_frames([None])
    assert nothing.inputs.values.shape[:2] == (1, 1)
    assert nothing.inputs.lengths.tolist() == [0]


def test_clips_become_small_frames(tmp_path: Path) -> None:
    pytest.importorskip("av")
    path = tmp_path / "clip.gif"
    stills = [Image.new("RGB", (48, 32), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    stills[0].save(path, save_all=True, append_images=stills[1:], duration=100)
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    raw = clip_frames([None, path, tmp_path / "broken.mp4"], count=4, side=16)
    assert raw.inputs.values.shape == (3, 4, 3, 16, 16)
    assert raw.inputs.lengths.tolist() == [0, 2, 0]
    assert raw.present.tolist() == [False, True, False]
    assert set(raw.faults) == {2}
    assert raw.inputs.values[1, 0, 0].float().mean() > 200
    assert raw.inputs.values[1, 1, 2].float().mean() > 200


def catalogue(**columns) -> Catalogue:
    count = 4
    plain = {"titles": (None,) * count, "texts": (None,) * count, "images": (None,) * count}
    prices = columns.pop("prices", np.full(count, np.nan, dtype=np.float32))
    return Catalogue(item_ids=tuple("abcd"), prices=prices, **plain, **columns)


def test_attribute_columns_keep_missing_values_apart() -> None:
    found, sizes = attribute_columns(
        catalogue(
            prices=np.array([math.e - 1, math.e**3 - 1, np.nan, -5.0], dtype=np.float32),
            category=Categorical(np.array([1, -1, 0, -1]), ("x", "y")),
            store=Categorical(np.array([-1, -1, -1, -1]), ("never",)),
            tags={"style": Tags(np.array([[1, 0], [1, 1], [0, 0], [0, 0]], dtype=bool), ("p", "q"))},
            numeric={"weight": np.array([1e300, -1e300, np.inf, np.nan])},
        )
    )
    assert (sizes.labels, sizes.tags, sizes.numbers) == ((2,), 2, 2)
    columns = found.inputs
    assert columns.codes.tolist() == [[1], [-1], [0], [-1]]
    assert columns.tags.int().tolist() == [[1, 0], [1, 1], [0, 0], [0, 0]]
    assert columns.known.tolist() == [[True, True], [True, True], [False, False], [False, False]]
    np.testing.assert_allclose(columns.numbers.numpy(), [[-1, 1], [1, -1], [0, 0], [0, 0]], atol=1e-5)
    assert found.present.tolist() == [True, True, True, False]
    tower = AttributeEmbedding(6, labels=sizes.labels, tags=sizes.tags, numbers=sizes.numbers, generator=generator())
    assert torch.isfinite(tower(columns)).all()


def test_attributes_that_nobody_has() -> None:
    found, sizes = attribute_columns(catalogue())
    assert (sizes.labels, sizes.tags, sizes.numbers) == ((), 0, 0)
    assert not found.present.any()
    equal, sizes = attribute_columns(catalogue(numeric={"same": np.full(4, 7.0)}))
    assert sizes.numbers == 1
    assert equal.inputs.numbers.abs().max() == 0


@pytest.mark.slow
def test_optional_packages_load_when_used_only() -> None:
    """Text, attributes and every network work without Pillow, transformers, gensim, soundfile and PyAV."""
    inputs = ("pixels", "tokens", "word_vectors", "mel", "clips", "columns", "subwords")
    code = "import sys\nimport mmfed.encoders.trainable.registry\n"
    code += "".join(f"import mmfed.encoders.trainable.inputs.{name}\n" for name in inputs)
    code += "print([m for m in ('PIL', 'transformers', 'gensim', 'soundfile', 'av', 'opacus') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_prices_enter_as_logarithms_and_codes_without_a_name_are_missing() -> None:
    prices = np.array([math.e - 1, math.e**2 - 1, math.e**3 - 1, np.nan], dtype=np.float32)
    category = Categorical(np.array([0, 2, -7, 1]), ("x", "y"))
    found, _ = attribute_columns(catalogue(prices=prices, category=category))
    spread = 1.5**0.5  # logarithms 1, 2 and 3 standardised
    np.testing.assert_allclose(found.inputs.numbers[:, 0].numpy(), [-spread, 0, spread, 0], atol=1e-5)
    assert found.inputs.codes[:, 0].tolist() == [0, -1, -1, 1]
