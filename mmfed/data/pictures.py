"""Pictures of a catalogue: where a cell of the image column points, and whether the file can be a picture."""

from __future__ import annotations

import os
import warnings
from pathlib import Path, PurePosixPath

MOST_PIXELS = 50_000_000
_ENDING_WITHIN = 1 << 16


def path_fault(cell: str) -> str | None:
    """Why a cell of the image column must not be followed, or None; a picture lies inside the shop's folder."""
    path = PurePosixPath(cell.replace("\\", "/"))
    if "\x00" in cell:
        return "holds a NUL byte"
    if path.is_absolute() or cell[1:2] == ":" or cell.startswith("~"):
        return "is an absolute path"
    return "leaves the folder with .." if ".." in path.parts else None


def find_picture(folder: Path, cell: str, media: str = "media") -> Path | None:
    """The file a cell names, looked for in ``media`` and then in the folder itself; None where there is none."""
    relative = cell.replace("\\", "/")
    for candidate in (os.path.join(folder, media, relative), os.path.join(folder, relative)):
        if os.path.isfile(candidate):
            return Path(candidate)
    return None


def picture_fault(path: Path) -> str | None:
    """Why a file cannot be used as a picture, or None.

    Reads the header and, where the format has them, checksums; it never decodes, so a decompression bomb costs nothing.

    Raises:
        ModuleNotFoundError: Pillow is not installed.
    """
    from PIL import Image

    try:
        size = path.stat().st_size
        if size == 0:
            return "the file is empty"
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                width, height = picture.size
                kind = picture.format
                if width * height > MOST_PIXELS:
                    return _too_large(width, height)
                picture.verify()
        return "the picture is cut off" if kind == "JPEG" and not _has_jpeg_end(path, size) else None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"the picture has more than {MOST_PIXELS // 1_000_000} million pixels"
    except Exception as error:  # decoders of damaged files raise anything: SyntaxError, struct.error, ValueError …
        return f"the file is not a readable picture ({type(error).__name__})"


def _too_large(width: int, height: int) -> str:
    return f"the picture has {width} x {height} pixels, more than {MOST_PIXELS // 1_000_000} million"


def _has_jpeg_end(path: Path, size: int) -> bool:
    """Whether the end-of-image marker is near the end; Pillow verifies no JPEG data."""
    with open(path, "rb") as file:
        file.seek(max(0, size - _ENDING_WITHIN))
        return b"\xff\xd9" in file.read()
