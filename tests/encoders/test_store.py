from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmfed.config import EncoderSection, FeaturesSection, TextSection
from mmfed.data.schema import Catalogue, Categorical, Features
from mmfed.encoders.store import FeatureSet, catalogue_features
from mmfed.errors import ExitCode, MmfedError

SIZE = 12


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    folder = tmp_path_factory.mktemp("shop")
    generator = np.random.default_rng(0)
    images: list[Path | None] = []
    for n in range(SIZE):
        path = folder / f"{n}.jpg"
        Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((64, 64)).save(path)
        images.append(path)
    images[3] = None
    (folder / "5.jpg").write_bytes(b"")
    titles = [f"{colour} {thing}" for colour in ("red", "blue", "green") for thing in ("hat", "shoe", "pear", "lamp")]
    return Catalogue(
        item_ids=tuple(f"i{n}" for n in range(SIZE)),
        titles=(None, *titles[1:]),
        texts=(None,) * SIZE,
        images=tuple(images),
        prices=np.arange(1, SIZE + 1, dtype=np.float32),
        category=Categorical(np.array([-1, *([0, 1, 2] * 4)][:SIZE], dtype=np.int32), ("a", "b", "c")),
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def built(shop: Catalogue, cache: Path) -> FeatureSet:
    return catalogue_features(shop, FeaturesSection(cache=cache))


def test_shapes_types_and_presence(built: FeatureSet) -> None:
    assert list(built.modalities) == ["image", "text", "attributes"]
    for features in built.modalities.values():
        assert features.values.dtype == np.float32
        assert np.isfinite(features.values).all()
        assert (features.values[~features.present] == 0).all()
    np.testing.assert_array_equal(np.flatnonzero(~built.modalities["image"].present), [3, 5])
    np.testing.assert_array_equal(np.flatnonzero(~built.modalities["text"].present), [0])
    assert built.modalities["attributes"].present.all()
    assert built.modalities["attributes"].values.shape == (SIZE, 4)


def test_whitened_over_present_rows(built: FeatureSet) -> None:
    for name in ("image", "text"):
        features = built.modalities[name]
        rows = features.values[features.present].astype(np.float64)
        np.testing.assert_allclose(np.cov(rows.T), np.eye(rows.shape[1]), atol=1e-3)


def test_notes_name_the_unreadable_picture(built: FeatureSet) -> None:
    assert any("5.jpg" in note and "empty" in note for note in built.notes)
    assert not any("3.jpg" in note for note in built.notes)


def test_again_from_the_cache_is_the_same(
    built: FeatureSet, shop: Catalogue, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("encoded although cached")

    monkeypatch.setattr("mmfed.encoders.image.ImageEncoder.encode", refuse)
    monkeypatch.setattr("mmfed.encoders.text.TextEncoder.encode", refuse)
    again = catalogue_features(shop, FeaturesSection(cache=cache))
    assert again.digest == built.digest
    assert again.notes == built.notes
    for name, features in built.modalities.items():
        assert again.modalities[name].values.tobytes() == features.values.tobytes()


def test_digest_covers_values_presence_ids_and_settings(shop: Catalogue) -> None:
    values = np.arange(SIZE * 2, dtype=np.float32).reshape(SIZE, 2)
    present = np.ones(SIZE, dtype=bool)
    raw = EncoderSection(dimensions=None, whiten=False)
    section = FeaturesSection(modalities=("audio",), audio=raw)

    def digest(
        values: np.ndarray, present: np.ndarray, catalogue: Catalogue = shop, section: FeaturesSection = section
    ) -> str:
        return catalogue_features(replace(catalogue, features={"audio": Features(values, present)}), section).digest

    changed, fewer = values.copy(), present.copy()
    changed[4, 1] += 1e-3
    fewer[0] = False
    zero_row = values.copy()
    zero_row[0] = 0
    seen = {
        digest(values, present),
        digest(changed, present),
        digest(values, fewer),
        digest(zero_row, present),
        digest(values, present, replace(shop, item_ids=tuple(f"j{n}" for n in range(SIZE)))),
        digest(values, present, section=FeaturesSection(modalities=("audio",))),
    }
    assert len(seen) == 6
    assert digest(values, present) == digest(values.copy(), present.copy())


def test_delivered_numbers_take_the_place_of_the_encoder(shop: Catalogue, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(SIZE, 5)).astype(np.float16)
    values[2] = np.nan
    values[4, 0] = np.inf
    present = np.arange(SIZE) != 2
    catalogue = replace(shop, features={"image": Features(values, present), "audio": Features(values, present)})
    raw = EncoderSection(dimensions=None, whiten=False)
    section = FeaturesSection(
        modalities=("image", "audio"), cache=tmp_path, image=raw, audio=EncoderSection(dimensions=3)
    )
    built = catalogue_features(catalogue, section)
    kept = np.array([n not in (2, 4) for n in range(SIZE)])
    np.testing.assert_array_equal(built.modalities["image"].values[kept], values[kept].astype(np.float32))
    np.testing.assert_array_equal(built.modalities["image"].present, kept)
    assert (built.modalities["image"].values[~kept] == 0).all()
    assert built.modalities["audio"].values.shape == (SIZE, 3)
    assert "image: 1 delivered rows hold NaN or infinity; treated as absent." in built.notes
    assert list(tmp_path.iterdir()) == []


def test_what_a_shop_lacks_is_left_out_with_a_note(shop: Catalogue, tmp_path: Path) -> None:
    nothing = (None,) * SIZE
    bare = replace(shop, titles=nothing, images=nothing, prices=np.full(SIZE, np.nan, dtype=np.float32), category=None)
    everything = ("image", "text", "attributes", "audio", "video")
    built = catalogue_features(bare, FeaturesSection(modalities=everything, cache=tmp_path))
    assert built.modalities == {}
    assert [note.split(":")[0] for note in built.notes] == list(everything)
    assert all("left out" in note for note in built.notes)
    assert list(tmp_path.iterdir()) == []


def test_encoder_none_leaves_the_modality_out(shop: Catalogue, tmp_path: Path) -> None:
    off = EncoderSection(encoder="none")
    built = catalogue_features(shop, FeaturesSection(cache=tmp_path, image=off, text=TextSection(encoder="none")))
    assert list(built.modalities) == ["attributes"]


def test_all_pictures_unreadable(shop: Catalogue, tmp_path: Path) -> None:
    gone = replace(shop, images=tuple(tmp_path / f"{n}.jpg" for n in range(SIZE)))
    built = catalogue_features(gone, FeaturesSection(modalities=("image",), cache=tmp_path / "cache"))
    assert built.modalities == {}
    assert built.notes[-1] == "image: nothing could be read; left out."
    assert sum("no such file" in note for note in built.notes) == SIZE


def test_identical_items_have_nothing_to_tell_apart(shop: Catalogue) -> None:
    same = replace(shop, features={"audio": Features(np.ones((SIZE, 4)), np.ones(SIZE, dtype=bool))})
    built = catalogue_features(same, FeaturesSection(modalities=("audio",)))
    assert built.modalities == {}
    assert "same features" in built.notes[0]


def test_a_changed_picture_is_encoded_anew(shop: Catalogue, tmp_path: Path) -> None:
    section = FeaturesSection(modalities=("image",), cache=tmp_path / "cache")
    path = tmp_path / "x.png"
    pictures = (path, *shop.images[1:])
    Image.new("RGB", (32, 32), "red").save(path)
    red = catalogue_features(replace(shop, images=pictures), section)
    Image.new("RGB", (32, 32), "blue").save(path)
    blue = catalogue_features(replace(shop, images=pictures), section)
    assert red.digest != blue.digest
    Image.new("RGB", (32, 32), "red").save(path)
    assert catalogue_features(replace(shop, images=pictures), section).digest == red.digest


def test_progress_and_stop(shop: Catalogue, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    section = FeaturesSection(modalities=("text",), cache=tmp_path)
    catalogue_features(shop, section, progress=lambda *call: calls.append(call))
    assert calls == [("text", SIZE - 1, SIZE - 1)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_cache(shop: Catalogue, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(MmfedError) as caught:
        catalogue_features(shop, FeaturesSection(modalities=("text",), cache=tmp_path / "cache"))
    assert caught.value.code == ExitCode.FEATURES


def test_tampered_cache_is_noted(shop: Catalogue, tmp_path: Path) -> None:
    section = FeaturesSection(modalities=("text",), cache=tmp_path)
    first = catalogue_features(shop, section)
    (path,) = tmp_path.glob("*/values.npy")
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    second = catalogue_features(shop, section)
    assert any("did not match their hash" in note for note in second.notes)
    np.testing.assert_allclose(second.modalities["text"].values, first.modalities["text"].values, atol=1e-3)
    assert not any("hash" in note for note in catalogue_features(shop, section).notes)
