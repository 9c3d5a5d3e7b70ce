"""Augmentation: same size and kind, drawn from (seed, key, number) alone, nothing invented."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mmfed.data.imbalance.augment import (
    ImageAugmentation,
    TextAugmentation,
    augment_image,
    augment_text,
    colour,
    crop,
)
from mmfed.errors import MmfedError

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 17, 3), dtype=np.uint8)
STILL = ImageAugmentation(flip=0, smallest_crop=1, brightness=0, contrast=0, saturation=0)
TEXT = "a light red shirt with short sleeves and a small collar"


def test_no_change_asked_no_change_made() -> None:
    assert np.array_equal(augment_image(PICTURE, seed=0, key="i", number=0, by=STILL), PICTURE)
    assert augment_text(TEXT, seed=0, key="i", number=0, by=TextAugmentation(drop=0, swap=0)) == TEXT


def test_flip_is_a_mirror_image() -> None:
    flipped = augment_image(
        PICTURE,
        seed=0,
        key="i",
        number=0,
        by=ImageAugmentation(flip=1, smallest_crop=1, brightness=0, contrast=0, saturation=0),
    )
    assert np.array_equal(flipped, PICTURE[:, ::-1])


def test_crop_shows_the_corners_it_names() -> None:
    ramp = np.zeros((11, 21, 3), dtype=np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(11)[:, None], np.arange(21)[None, :]
    first, last = crop(ramp, share=0.5, down=0, right=0), crop(ramp, share=0.5, down=1, right=1)
    assert first.shape == last.shape == ramp.shape
    assert first[0, 0, :2].tolist() == [0, 0]
    assert first[-1, -1, :2].tolist() == pytest.approx([5, 10])
    assert last[0, 0, :2].tolist() == pytest.approx([5, 10])
    assert last[-1, -1, :2].tolist() == pytest.approx([10, 20])


def test_colour_factors() -> None:
    pixels = PICTURE.astype(float)
    assert np.array_equal(colour(pixels, brightness=1, contrast=1, saturation=1), PICTURE)
    grey = colour(pixels, brightness=1, contrast=1, saturation=0)
    assert (np.ptp(grey, axis=2) == 0).all()
    assert np.ptp(colour(pixels, brightness=1, contrast=0, saturation=0)) == 0
    dark = colour(pixels, brightness=0.5, contrast=1, saturation=1)
    assert np.abs(dark.astype(int) - PICTURE / 2).max() <= 0.5


def test_variants_differ_and_repeat() -> None:
    def variant(**where) -> bytes:
        return augment_image(PICTURE, **({"seed": 0, "key": "i", "number": 0} | where)).tobytes()

    assert variant() == variant()
    assert len({variant(), variant(seed=1), variant(key="j"), variant(number=1)}) == 4
    texts = {augment_text(TEXT, seed=0, key="i", number=number) for number in range(20)}
    assert len(texts) > 10
    assert augment_text(TEXT, seed=0, key="i", number=3) == augment_text(TEXT, seed=0, key="i", number=3)


def test_texts_lose_words_and_never_gain_any() -> None:
    for number in range(50):
        words = augment_text(TEXT, seed=0, key="i", number=number, by=TextAugmentation(drop=0.4, swap=0.5)).split()
        assert words
        assert not Counter(words) - Counter(TEXT.split())
    swapped = augment_text(TEXT, seed=0, key="i", number=0, by=TextAugmentation(drop=0, swap=0.5))
    assert swapped != TEXT
    assert sorted(swapped.split()) == sorted(TEXT.split())


@pytest.mark.parametrize(("text", "expected"), [("", ""), (" \n\t ", ""), ("shirt", "shirt")])
def test_short_texts_survive(text: str, expected: str) -> None:
    assert augment_text(text, seed=0, key=1, number=0, by=TextAugmentation(drop=1, swap=1)) == expected


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (9, 1, 3)])
def test_tiny_pictures_survive(shape: tuple[int, ...]) -> None:
    assert augment_image(np.full(shape, 200, dtype=np.uint8), seed=0, key=1, number=0).shape == shape


@pytest.mark.parametrize(
    "picture",
    [np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)],
)
def test_what_is_no_picture_is_refused(picture: np.ndarray) -> None:
    with pytest.raises(MmfedError, match="cannot be augmented"):
        augment_image(picture, seed=0, key=1, number=0)


@pytest.mark.parametrize(
    "settings", [{"flip": 1.1}, {"smallest_crop": 0.0}, {"contrast": -0.1}, {"brightness": np.nan}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(MmfedError, match="use a share"):
        ImageAugmentation(**settings)
    with pytest.raises(MmfedError, match=r"drop = 2"):
        TextAugmentation(drop=2)
