"""The audio and video columns of the items file: the rules and words of the image column."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import polars as pl
import pytest
import soundfile

from mmfed.config import DataSection
from mmfed.data.check import CheckReport, check_shop
from mmfed.data.findings import LISTED
from mmfed.data.load import load_shop
from mmfed.data.recordings import sound_fault, video_fault
from mmfed.data.schema import Catalogue
from mmfed.errors import ExitCode, MmfedError

INTERACTIONS = "user,item,time\nanna,shirt,2024-01-01\nben,shoes,2024-01-02\n"
ITEMS = "item,title,audio,video\nshirt,Shirt,shirt.wav,clips/shirt.mp4\nshoes,Shoes,,\nhat,Hat,shirt.wav,\n"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / "media").mkdir(parents=True)
    (folder / "clips").mkdir()
    (folder / "interactions.csv").write_text(INTERACTIONS)
    (folder / "items.csv").write_text(ITEMS)
    soundfile.write(folder / "media" / "shirt.wav", np.sin(np.arange(1600) / 5), 16_000)
    with av.open(str(folder / "clips" / "shirt.mp4"), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=15)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for shade in range(0, 250, 50):
            picture = np.full((32, 32, 3), shade, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return folder


def load(folder: Path) -> Catalogue:
    return load_shop(DataSection.model_validate({"source": "table", "path": folder}), seed=0).catalogue


def told(report: CheckReport) -> list[tuple[str, str, int | None, str | None]]:
    return [(f.severity, f.file, f.row, f.column) for f in report.findings]


def test_files_are_found_in_media_and_in_the_folder(shop: Path) -> None:
    assert check_shop(shop).findings == ()
    catalogue = load(shop)
    sound = shop / "media" / "shirt.wav"
    assert catalogue.audios == (sound, None, sound)
    assert catalogue.videos == (shop / "clips" / "shirt.mp4", None, None)
    assert not catalogue.categorical
    assert not catalogue.tags


def test_without_the_columns_there_are_none(shop: Path) -> None:
    (shop / "items.csv").write_text("item,title\nshirt,Shirt\nshoes,Shoes\n")
    catalogue = load(shop)
    assert (catalogue.audios, catalogue.videos) == ((), ())


def test_columns_with_empty_cells_only(shop: Path) -> None:
    (shop / "items.csv").write_text("item,audio,video\nshirt,,\nshoes,,\n")
    catalogue = load(shop)
    assert (catalogue.audios, catalogue.videos) == ((None, None), (None, None))
    assert check_shop(shop).findings == ()


def test_parquet_gives_the_same(shop: Path) -> None:
    catalogue = load(shop)
    pl.read_csv(shop / "items.csv").write_parquet(shop / "items.parquet")
    (shop / "items.csv").unlink()
    again = load(shop)
    assert (again.audios, again.videos) == (catalogue.audios, catalogue.videos)


@pytest.mark.parametrize("column", ["audio", "video"])
@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("../../secret.wav", "../../secret.wav' leaves the folder with .."),
        (r"..\a.wav", "leaves the folder with .."),
        ("/etc/passwd", "/etc/passwd' is an absolute path"),
        (r"C:\a.mp4", "is an absolute path"),
        ("~/a.mp4", "is an absolute path"),
    ],
)
def test_a_path_out_of_the_shop_is_an_error(shop: Path, column: str, cell: str, message: str) -> None:
    (shop / "items.csv").write_text(f"item,{column}\nshoes,\nshirt,{cell}\n")
    report = check_shop(shop)
    assert told(report) == [("error", "items.csv", 3, column)]
    assert report.findings[0].message.startswith("the path leaves the shop: ")
    assert message in report.findings[0].message
    with pytest.raises(MmfedError) as caught:
        load(shop)
    assert caught.value.code is ExitCode.DATA
    assert caught.value.message == str(report.findings[0])


@pytest.mark.parametrize(("column", "lacking", "kind"), [("audio", "sound", "sound"), ("video", "video", "video")])
def test_a_missing_file_is_named_and_the_shop_loads(shop: Path, column: str, lacking: str, kind: str) -> None:
    (shop / "items.csv").write_text(f"item,{column}\nshoes,https://example.org/a\nshirt,lost.bin\n")
    report = check_shop(shop)
    assert report.ok
    assert told(report) == [("warning", "items.csv", 2, column), ("warning", "items.csv", 3, column)]
    web, lost = report.findings
    assert web.message == f"'https://example.org/a' is a web address; the item counts as without {lacking}"
    assert web.fix == f"download the {kind} files into media/."
    assert lost.message == f"there is no file 'lost.bin'; the item counts as without {lacking}"
    assert getattr(load(shop), f"{column}s") == (None, None)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("media/shirt.wav", b"", "empty file; the item counts as without sound"),
        ("media/shirt.wav", b"hello " * 50, "not a WAV, AIFF, FLAC, Ogg or MP3 file; the item"),
        ("media/shirt.wav", 0.5, "the sound is cut off; the item"),
        ("clips/shirt.mp4", b"", "empty file; the item counts as without video"),
        ("clips/shirt.mp4", b"hello " * 50, "a kind of video that FFmpeg does not read; the item"),
        ("clips/shirt.mp4", 0.5, "a kind of video that FFmpeg does not read; the item"),
    ],
)
def test_the_check_names_unreadable_files_once(shop: Path, file: str, content: bytes | float, message: str) -> None:
    data = (shop / file).read_bytes()
    (shop / file).write_bytes(content if isinstance(content, bytes) else data[: int(content * len(data))])
    report = check_shop(shop)
    assert report.ok
    assert told(report) == [("warning", file, None, None)]  # shirt.wav belongs to two items
    assert message in report.findings[0].message
    load(shop)


def test_many_unreadable_files_are_counted(shop: Path) -> None:
    rows = "".join(f"i{n},{n}.mp3\n" for n in range(LISTED + 5))
    for n in range(LISTED + 5):
        (shop / "media" / f"{n}.mp3").write_bytes(b"x")
    (shop / "items.csv").write_text("item,audio\nshirt,\nshoes,\n" + rows)
    findings = check_shop(shop).findings
    assert len(findings) == LISTED + 1
    assert findings[-1].message == "5 more sound files cannot be used"


def test_a_sound_without_samples_and_a_clip_without_frames(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.flac", np.zeros(0), 16_000)
    assert sound_fault(tmp_path / "x.flac") is not None
    soundfile.write(tmp_path / "x.wav", np.zeros(0), 16_000)
    assert sound_fault(tmp_path / "x.wav") == "no samples"
    assert video_fault(tmp_path / "x.wav") is not None
    assert sound_fault(tmp_path) == video_fault(tmp_path) == "no such file"


@pytest.mark.parametrize(("module", "extra", "words"), [("soundfile", "audio", "sound"), ("av", "video", "video")])
def test_without_the_package_the_files_are_not_examined(
    shop: Path, module: str, extra: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    (finding,) = check_shop(shop).findings
    assert finding.severity == "warning"
    assert finding.message.startswith(f"the {words} files were not examined")
    assert finding.fix == f"pip install 'mmfed[{extra}]'."
    assert load(shop).audios[0] is not None
