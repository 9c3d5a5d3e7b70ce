from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmfed.encoders.pictures import UnreadablePictureError, read_picture


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 60)) -> Image.Image:
    """Left half dark, right half bright."""
    grey = np.full((size[1], size[0]), 30, dtype=np.uint8)
    grey[:, size[0] // 2 :] = 220
    return Image.fromarray(grey).convert("RGB").convert(mode)


def pixels(path: Path) -> np.ndarray:
    return read_picture(path, resize=32, crop=28)


def halves(path: Path) -> tuple[float, float]:
    found = pixels(path)
    assert found.shape == (28, 28, 3)
    assert found.dtype == np.uint8
    return float(found[:, :10].mean()), float(found[:, -10:].mean())


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", "jpg"), ("CMYK", "jpg"), ("L", "jpg"), ("RGB", "png"), ("RGBA", "png"), ("LA", "png"), ("P", "png"),
        ("1", "png"), ("L", "png"), ("P", "gif"), ("RGB", "webp"), ("RGB", "bmp"), ("CMYK", "tiff"), ("RGB", "tiff"),
        ("YCbCr", "jpg"), ("LAB", "tiff"),
    ],
)  # fmt: skip
def test_every_common_mode_shows_the_same_picture(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    if mode == "LAB":
        Image.merge("LAB", [*picture("L").split(), *(Image.new("L", (40, 60), 128),) * 2]).save(path)
    else:
        picture(mode).save(path)
    dark, bright = halves(path)
    assert dark < 80
    assert bright > 180


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    grey = np.asarray(picture("L"), dtype=np.uint16) * 257
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(grey).save(path)
    dark, bright = halves(path)
    assert dark == pytest.approx(30, abs=3)
    assert bright == pytest.approx(220, abs=3)


def test_floating_grey(tmp_path: Path) -> None:
    path = tmp_path / "floating.tiff"
    Image.fromarray(np.asarray(picture("L"), dtype=np.float32) / 255).save(path)
    dark, bright = halves(path)
    assert dark == pytest.approx(30, abs=3)
    assert bright == pytest.approx(220, abs=3)
    Image.fromarray(np.full((20, 20), np.nan, dtype=np.float32)).save(path)
    with pytest.raises(UnreadablePictureError, match="not numbers"):
        pixels(path)


@pytest.mark.parametrize("suffix", ["png", "webp", "gif"])
def test_transparency_lies_on_white(tmp_path: Path, suffix: str) -> None:
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    clear.paste((200, 0, 0, 255), (20, 0, 40, 40))
    path = tmp_path / f"clear.{suffix}"
    clear.save(path, **({"lossless": True} if suffix == "webp" else {}))
    found = pixels(path)
    assert found[:, :8].min() > 245
    assert found[:, -8:, 1].max() < 30


def test_palette_with_transparency_index(tmp_path: Path) -> None:
    indexed = picture().quantize(4, dither=Image.Dither.NONE)
    path = tmp_path / "indexed.png"
    indexed.save(path, transparency=indexed.getpixel((0, 0)))
    dark_is_clear, bright = halves(path)
    assert dark_is_clear > 240
    assert bright > 180


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue", "green")]
    path = tmp_path / f"moving.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    found = pixels(path).mean(axis=(0, 1))
    assert found[0] > 200
    assert found[2] < 60


def test_orientation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    picture().rotate(90, expand=True).save(path, exif=exif)
    dark, bright = halves(path)
    assert dark < 80
    assert bright > 180


def test_only_the_centre_is_kept(tmp_path: Path) -> None:
    wide = np.zeros((50, 150, 3), dtype=np.uint8)
    wide[:, 50:100] = 255
    path = tmp_path / "wide.png"
    Image.fromarray(wide).save(path)
    assert pixels(path).min() > 200


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 2000)])
def test_tiny_and_thin_pictures(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "thin.png"
    Image.new("RGB", size, "red").save(path)
    assert pixels(path)[..., 0].min() > 250


def test_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path: Path) -> None:
    path, exact = tmp_path / "large.jpg", tmp_path / "large.png"
    big = picture(size=(1200, 1600))
    big.save(path, quality=95)
    big.save(exact)
    assert np.abs(pixels(path).astype(int) - pixels(exact).astype(int)).mean() < 3


def jpeg() -> bytes:
    buffer = io.BytesIO()
    picture(size=(200, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A valid PNG header that claims many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


CORPUS = {
    "empty.jpg": (b"", "empty file"),
    "noise.jpg": (bytes(range(256)) * 4, "not a picture"),
    "page.jpg": (b"<html>404</html>", "not a picture"),
    "cut.jpg": (jpeg()[: len(jpeg()) // 2], "damaged or truncated"),
    "header.jpg": (jpeg()[:30], None),
    "cut.png": (png()[: len(png()) // 2], "damaged or truncated"),
    "flipped.png": (png()[:3000] + bytes([png()[3000] ^ 255]) + png()[3001:], "damaged or truncated"),
    "bomb.png": (bomb(60_000, 60_000), "too many pixels"),
    "large.png": (bomb(9_000, 9_000), "too many pixels"),
    "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n", "not a picture"),
}


@pytest.mark.parametrize("name", CORPUS)
def test_broken_files_give_a_reason(tmp_path: Path, name: str) -> None:
    data, reason = CORPUS[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UnreadablePictureError, match=reason):
        pixels(path)


def test_missing_files_folders_and_pipes(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)  # opening it would wait for a writer for ever
    for path in (tmp_path / "missing.jpg", tmp_path, pipe, Path("bad\0name")):
        with pytest.raises(UnreadablePictureError, match="no such file"):
            pixels(path)


def test_random_damage_never_does_anything_else(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    path = tmp_path / "damaged"
    for source in (jpeg(), png()):
        for _ in range(60):
            data = bytearray(source)
            for place in generator.integers(0, len(data), 8):
                data[place] = generator.integers(256)
            path.write_bytes(bytes(data))
            with contextlib.suppress(UnreadablePictureError):
                assert pixels(path).shape == (28, 28, 3)
