"""Pictures as data URIs, with and without Pillow."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from PIL import Image

from mmfed.reports import thumbnails
from mmfed.reports.thumbnails import SIDE, Thumbnails


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (300, 200), (250, 10, 10)).save(path)
    return path


def test_a_large_picture_becomes_a_small_square(picture: Path, tmp_path: Path) -> None:
    uri = Thumbnails().uri(str(picture))
    assert uri is not None
    content = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    (tmp_path / "made.jpg").write_bytes(content)
    made = Image.open(tmp_path / "made.jpg")
    assert made.size == (SIDE, SIDE)
    red, green, blue = made.convert("RGB").resize((1, 1)).tobytes()
    assert red > 240
    assert max(green, blue) < 25


def test_without_pillow_small_files_of_known_kinds_go_in_unchanged(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnails, "find_spec", lambda name: None)
    (tmp_path / "page.png").write_text("<svg onload=alert(1)>")
    (tmp_path / "large.png").write_bytes(picture.read_bytes() + b"\0" * 30_000)
    made = Thumbnails()
    assert made.uri(str(picture)) == "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    assert [made.uri(str(tmp_path / name)) for name in ("page.png", "large.png", "absent.png")] == [None] * 3
