"""Label-preserving variants of pictures and texts, drawn statelessly from (seed, key, number).

Variants of catalogue pictures and texts cost no privacy: the catalogue is public. Variants of what a person uploaded or
wrote are copies of a private record; n variants beside the original multiply its contribution by n + 1
(``contribution.group_privacy``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfed.errors import ExitCode, MmfedError
from mmfed.rng import numpy_generator
from mmfed.types import FloatArray

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True, kw_only=True)
class ImageAugmentation:
    """How far a picture may move.

    Attributes:
        flip: chance of a left-right mirror image; 0 where writing or a side matters.
        smallest_crop: shortest side of the crop as a share of the picture's, in (0, 1].
        brightness, contrast, saturation: factors are drawn from 1 - x to 1 + x.
    """

    flip: float = 0.5
    smallest_crop: float = 0.85
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2

    def __post_init__(self) -> None:
        _check_share("flip", self.flip)
        _check_share("smallest_crop", self.smallest_crop)
        if self.smallest_crop == 0:
            raise _out_of_range("smallest_crop", 0.0)
        for name in ("brightness", "contrast", "saturation"):
            _check_share(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class TextAugmentation:
    """How far a text may move.

    Attributes:
        drop: chance of each word to be left out; one word always stays.
        swap: exchanges of two neighbouring words, as a share of the number of words.
    """

    drop: float = 0.1
    swap: float = 0.1

    def __post_init__(self) -> None:
        _check_share("drop", self.drop)
        _check_share("swap", self.swap)


def augment_image(
    picture: np.ndarray,
    *,
    seed: int,
    key: int | str,
    number: int,
    by: ImageAugmentation | None = None,
) -> np.ndarray:
    """Variant ``number`` of a picture: [height, width, 3] uint8, the same size.

    Args:
        picture: [height, width, 3] uint8.
        key: what the picture is, such as the item's id.

    Raises:
        MmfedError: not an RGB picture of at least one pixel.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
        raise MmfedError(
            ExitCode.DATA,
            f"a picture of shape {picture.shape} and type {picture.dtype} cannot be augmented.",
            "give [height, width, 3] of uint8.",
        )
    by = ImageAugmentation() if by is None else by
    draws = numpy_generator(seed, "augment-image", key, number).random(7)
    changed = picture[:, ::-1] if draws[0] < by.flip else picture
    share = by.smallest_crop + (1.0 - by.smallest_crop) * draws[1]
    pixels = crop(changed, share=share, down=draws[2], right=draws[3])
    factors = [
        1 + size * (2 * draw - 1)
        for size, draw in zip((by.brightness, by.contrast, by.saturation), draws[4:], strict=True)
    ]
    return colour(pixels, brightness=factors[0], contrast=factors[1], saturation=factors[2])


def crop(picture: np.ndarray, *, share: float, down: float, right: float) -> FloatArray:
    """A window of ``share`` of each side, enlarged to the picture's size by bilinear interpolation: float64.

    Args:
        down, right: where the window lies among its possible places, from 0 (top, left) to 1.
    """
    height, width = picture.shape[:2]
    rows = (height - 1) * ((1 - share) * down + share * np.linspace(0, 1, height))
    columns = (width - 1) * ((1 - share) * right + share * np.linspace(0, 1, width))
    pixels = picture.astype(np.float64)
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    bottom, end = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    below, beside = (rows - top)[:, None, None], (columns - left)[None, :, None]
    upper = pixels[top][:, left] * (1 - beside) + pixels[top][:, end] * beside
    lower = pixels[bottom][:, left] * (1 - beside) + pixels[bottom][:, end] * beside
    return upper * (1 - below) + lower * below


def colour(pixels: FloatArray, *, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Factors on brightness, on the distance from mean grey and on the distance from grey; [h, w, 3] uint8."""
    changed = pixels * brightness
    mean = (changed @ _LUMA).mean()
    changed = mean + (changed - mean) * contrast
    grey = (changed @ _LUMA)[..., None]
    return np.clip(np.rint(grey + (changed - grey) * saturation), 0, 255).astype(np.uint8)


def augment_text(text: str, *, seed: int, key: int | str, number: int, by: TextAugmentation | None = None) -> str:
    """Variant ``number`` of a text: words left out, neighbours exchanged (Wei and Zou 2019); white space is evened out.

    A text without words comes back empty.
    """
    by = TextAugmentation() if by is None else by
    generator = numpy_generator(seed, "augment-text", key, number)
    words = text.split()
    kept = [word for word, draw in zip(words, generator.random(len(words)), strict=True) if draw >= by.drop]
    if words and not kept:
        kept = [words[int(generator.integers(len(words)))]]
    if len(kept) > 1:
        for place in generator.integers(len(kept) - 1, size=round(by.swap * len(kept))).tolist():
            kept[place], kept[place + 1] = kept[place + 1], kept[place]
    return " ".join(kept)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise _out_of_range(name, value)


def _out_of_range(name: str, value: float) -> MmfedError:
    return MmfedError(ExitCode.CONFIG, f"{name} = {value!r}: not allowed.", "use a share from 0 to 1.")
