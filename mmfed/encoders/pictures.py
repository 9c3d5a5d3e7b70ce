"""A picture file of unknown origin as a square RGB array, or the reason why not."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Named so that a picture can never reach a decoder that runs another program (EPS, PDF, ...).
_ALLOWED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
MAXIMUM_PIXELS = 64_000_000  # a bomb of a few kilobytes can claim far more; phones stay below


class UnreadablePictureError(Exception):
    """A picture file that gives no pixels; the message is the reason, in a few words."""


def read_picture(path: Path, *, resize: int, crop: int) -> np.ndarray:
    """Pixels of the first frame, [crop, crop, 3] uint8.

    The shorter side is scaled to ``resize`` and the centre of side ``crop`` kept. Orientation from EXIF is applied,
    transparency is laid on white, 16-bit grey is scaled to 8 bits, CMYK and palettes are converted.

    Raises:
        UnreadablePictureError: missing, empty, truncated, too large or not a picture.
    """
    if not path.is_file():
        raise UnreadablePictureError("no such file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path, formats=_formats()) as picture:
                return _centre(picture, resize, crop)
        except UnreadablePictureError:
            raise
        except (UnidentifiedImageError, Image.DecompressionBombError) as error:
            reason = "too many pixels" if isinstance(error, Image.DecompressionBombError) else "not a picture"
            raise UnreadablePictureError("empty file" if path.stat().st_size == 0 else reason) from error
        except (
            Exception
        ) as error:  # decoders of hostile bytes raise whatever their parser met (struct, zlib, Syntax, ...)
            raise UnreadablePictureError("damaged or truncated") from error


@cache
def _formats() -> tuple[str, ...]:
    """The allowed formats this Pillow can read; it fails on every picture when asked for one it does not know."""
    Image.init()
    return tuple(name for name in _ALLOWED if name in Image.OPEN)


def _centre(picture: Image.Image, resize: int, crop: int) -> np.ndarray:
    width, height = picture.size
    if width * height > MAXIMUM_PIXELS:
        raise UnreadablePictureError("too many pixels")
    picture.draft("RGB", (resize, resize))  # JPEG: decode at 1/2, 1/4 or 1/8 while no side falls below what is needed
    upright = ImageOps.exif_transpose(picture)
    colour = _to_rgb(upright)
    width, height = colour.size
    side = min(width, height) * crop / resize
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    square = colour.resize((crop, crop), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    return np.asarray(square)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        return _deep_grey(picture)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _deep_grey(picture: Image.Image) -> Image.Image:
    """16-bit, 32-bit and floating grey; Pillow's own conversion would clip everything above 255 to white."""
    values = np.asarray(picture, dtype=np.float64)
    if not np.isfinite(values).all():
        raise UnreadablePictureError("pixels that are not numbers")
    if picture.mode == "F" and values.max(initial=0.0) <= 1.0:
        span = 1.0
    else:
        span = 255.0 if values.max(initial=0.0) <= 255 and not picture.mode.startswith("I;16") else 65535.0
    grey = np.clip(values / span, 0.0, 1.0) * 255.0
    return Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")
