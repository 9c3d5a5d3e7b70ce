"""Own content through the catalogue's encoders: the same numbers for the same sound and picture, bad files counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmfed.config import FeaturesSection
from mmfed.data.own_content import NO_ITEM, OwnContent, own_content
from mmfed.data.schema import Catalogue, Features
from mmfed.encoders.own import OwnFeatures, own_features
from mmfed.encoders.store import catalogue_features
from mmfed.errors import ExitCode, MmfedError

ITEMS = 6


def content_of(**contents: list[Any]) -> OwnContent:
    rows = len(next(iter(contents.values())))
    return own_content(
        user_ids=["anna"],
        users=np.zeros(rows, dtype=np.int64),
        times=np.arange(rows),
        items=np.full(rows, NO_ITEM),
        contents=dict(contents),
    )


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """Every item has a sound and a picture of its own."""
    soundfile, image = pytest.importorskip("soundfile"), pytest.importorskip("PIL.Image")
    sounds, pictures = [], []
    for item in range(ITEMS):
        generator = np.random.default_rng(item)
        sounds.append(tmp_path / f"{item}.wav")
        soundfile.write(sounds[-1], np.sin(np.arange(8000) * (item + 1) / 20) + generator.normal(size=8000) / 9, 16_000)
        pictures.append(tmp_path / f"{item}.png")
        image.fromarray(generator.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(pictures[-1])
    none = (None,) * ITEMS
    prices = np.full(ITEMS, np.nan, dtype=np.float32)
    ids = tuple(f"i{item}" for item in range(ITEMS))
    return Catalogue(ids, none, none, tuple(pictures), prices, audios=tuple(sounds))


def section(cache: Path, modality: str, **settings: Any) -> FeaturesSection:
    return FeaturesSection.model_validate({"modalities": [modality], "cache": cache, modality: settings})


@pytest.mark.parametrize("settings", [{"dimensions": 3}, {"dimensions": None, "whiten": False}])
def test_a_sound_is_what_the_same_sound_of_an_item_is(catalogue: Catalogue, tmp_path: Path, settings: Any) -> None:
    chosen = section(tmp_path / "cache", "audio", **settings)
    features = catalogue_features(catalogue, chosen)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    content = content_of(
        audio=[catalogue.audios[4], None, tmp_path / "broken.wav", catalogue.audios[1]], text=["a"] * 4
    )
    for cache in (None, tmp_path / "own", tmp_path / "own"):
        found = own_features(content, catalogue, chosen, features, cache=cache)
        assert list(found.modalities) == ["audio"], "the catalogue's features have no text"
        audio = found.modalities["audio"]
        assert audio.present.tolist() == [True, False, False, True]
        np.testing.assert_array_equal(audio.values[[0, 3]], features.modalities["audio"].values[[4, 1]])
        assert not audio.values[[1, 2]].any()
        assert found.notes == ("own content, audio: 1 could not be read; treated as absent.",)
        assert found.readable(["audio", "image"]).tolist() == [True, False, False, True]
        assert not found.readable(["image"]).any()


def test_a_photo_is_what_the_same_picture_of_an_item_is(catalogue: Catalogue, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    chosen = section(tmp_path / "cache", "image", dimensions=3)
    features = catalogue_features(catalogue, chosen)
    found = own_features(content_of(image=[catalogue.images[2]]), catalogue, chosen, features)
    expected = features.modalities["image"].values[[2]]
    np.testing.assert_allclose(found.modalities["image"].values, expected, atol=0.02)


def test_nothing_readable_gives_the_catalogue_s_width_and_no_presence(catalogue: Catalogue, tmp_path: Path) -> None:
    chosen = section(tmp_path / "cache", "audio", dimensions=3)
    features = catalogue_features(catalogue, chosen)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    found = own_features(content_of(audio=[tmp_path / "broken.wav"]), catalogue, chosen, features)
    assert found.modalities["audio"].values.shape == (1, 3)
    assert not found.readable(["audio"]).any()


def test_numbers_made_elsewhere_have_no_encoder_here(catalogue: Catalogue, tmp_path: Path) -> None:
    delivered = Features(np.random.default_rng(0).normal(size=(ITEMS, 4)), np.ones(ITEMS, dtype=bool))
    other = replace(catalogue, features={"audio": delivered})
    chosen = section(tmp_path / "cache", "audio", dimensions=3)
    with pytest.raises(MmfedError, match="made elsewhere") as caught:
        own_features(content_of(audio=[catalogue.audios[0]]), other, chosen, catalogue_features(other, chosen))
    assert caught.value.code == ExitCode.FEATURES


def test_one_person_s_and_what_follows() -> None:
    def held(text: list[float], image: list[float]) -> OwnFeatures:
        columns = {"text": ["words"] * len(text)}
        named = {
            name: Features(np.array(column, dtype=np.float32)[:, None], np.ones(len(column), dtype=bool))
            for name, column in (("text", text), ("image", image))
            if column
        }
        return OwnFeatures(content_of(**columns), named)

    joined = held([1.0, 2.0], [3.0, 4.0]).followed_by(held([5.0], []))
    assert joined.modalities["text"].values[:, 0].tolist() == [1.0, 2.0, 5.0]
    assert joined.modalities["image"].values[:, 0].tolist() == [3.0, 4.0, 0.0]
    assert joined.modalities["image"].present.tolist() == [True, True, False]
    assert len(joined.content) == 3
    alone = joined.of_user(0)
    assert alone.modalities["text"].values[:, 0].tolist() == [1.0, 2.0, 5.0]
