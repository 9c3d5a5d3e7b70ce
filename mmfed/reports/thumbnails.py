"""Product pictures as small data URIs, so that a page carries its pictures with it."""

from __future__ import annotations

import base64
import io
from importlib.util import find_spec
from pathlib import Path

SIDE = 96  # pixels; shown at 72
_QUALITY = 70
_SMALL = 24_000  # bytes a picture may have to be embedded unchanged
_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


class Thumbnails:
    """Makes each thumbnail once."""

    def __init__(self) -> None:
        self._made: dict[str, str | None] = {}

    def uri(self, path: str | None) -> str | None:
        """A ``data:`` URI of the picture; None where there is no readable one."""
        if not path:
            return None
        if path not in self._made:
            self._made[path] = _encode(Path(path)) if "\0" not in path else None
        return self._made[path]


def _encode(path: Path) -> str | None:
    if find_spec("PIL") is None:
        return _unchanged(path)
    from PIL import Image

    from mmfed.encoders.pictures import UnreadablePictureError, read_picture

    try:
        pixels = read_picture(path, resize=SIDE, crop=SIDE)
    except (UnreadablePictureError, OSError):
        return None
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, format="JPEG", quality=_QUALITY, optimize=True)
    return _uri("image/jpeg", target.getvalue())


def _unchanged(path: Path) -> str | None:
    """The file itself where it is small and of a kind every browser shows (without Pillow there is no re-encoding)."""
    try:
        if not path.is_file() or path.stat().st_size > _SMALL:
            return None
        content = path.read_bytes()
    except OSError:
        return None
    kind = next((kind for magic, kind in _MAGIC.items() if content.startswith(magic)), None)
    return None if kind is None else _uri(kind, content)


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
