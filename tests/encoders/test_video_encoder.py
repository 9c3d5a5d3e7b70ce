from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.codec import codecs_available
from PIL import Image

from mmfed.config import EncoderSection, FeaturesSection
from mmfed.data.recordings import UnreadableRecordingError, video_fault
from mmfed.data.schema import Catalogue
from mmfed.encoders.encoder import Encoded
from mmfed.encoders.frames import sample_frames
from mmfed.encoders.image import ImageEncoder
from mmfed.encoders.store import catalogue_features
from mmfed.encoders.video import VideoEncoder
from mmfed.errors import ExitCode, MmfedError


def needs(codec: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(codec not in codecs_available, reason=f"this FFmpeg has no {codec}")


H264 = "libx264" if "libx264" in codecs_available else "mpeg4"
CONTAINERS = [
    pytest.param("x.mp4", "libx264", marks=needs("libx264")),
    ("x.mp4", "mpeg4"),
    pytest.param("x.webm", "libvpx", marks=needs("libvpx")),
    pytest.param("x.webm", "libvpx-vp9", marks=needs("libvpx-vp9")),
    pytest.param("x.mkv", "libx264", marks=needs("libx264")),
    ("x.mov", "mpeg4"),
    ("x.avi", "mpeg4"),
    pytest.param("x.ts", "libx264", marks=needs("libx264")),
]


def write(
    path: Path,
    pictures: np.ndarray,
    codec: str = H264,
    *,
    fps: int = 15,
    gop: int = 12,
    sound: bool = False,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> Path:
    """A clip of pictures [frames, h, w, 3] uint8."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream: Any = container.add_stream(codec, rate=fps)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt, stream.gop_size, stream.bit_rate = pixels, gop, 2_000_000
        audio: Any = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
        if sound:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 160_000), dtype=np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


def ramp(frames: int = 60, height: int = 48, width: int = 64) -> np.ndarray:
    """Grey from black to white over the frames; a red strip on the left."""
    pictures = np.empty((frames, height, width, 3), dtype=np.uint8)
    pictures[:] = np.linspace(0, 255, frames).astype(np.uint8)[:, None, None, None]
    pictures[:, :, :8] = (255, 0, 0)
    return pictures


def shades(frames: np.ndarray) -> np.ndarray:
    return frames[:, 10:-10, 30:-10].astype(float).mean(axis=(1, 2, 3))


@pytest.mark.parametrize(("name", "codec"), CONTAINERS)
def test_frames_lie_evenly_in_time(name: str, codec: str, tmp_path: Path) -> None:
    frames = sample_frames(write(tmp_path / name, ramp(), codec), 8)
    assert frames.shape == (8, 48, 64, 3)
    assert frames.dtype == np.uint8
    middles = ((np.arange(8) + 0.5) / 8 * 60).astype(int)  # the frame on screen in the middle of each eighth
    np.testing.assert_allclose(shades(frames), 255 / 59 * middles, atol=6)
    assert (frames[:, 24, 3, 0] > 200).all()
    assert (frames[:, 24, 3, 1:] < 60).all()


@pytest.mark.parametrize("gop", [1, 12, 1000])
def test_key_frames_do_not_matter(gop: int, tmp_path: Path) -> None:
    frames = sample_frames(write(tmp_path / "x.mp4", ramp(), gop=gop), 5)
    np.testing.assert_allclose(shades(frames), 255 / 59 * np.array([6, 18, 30, 42, 54]), atol=6)


def test_a_clip_of_few_frames_gives_each_once(tmp_path: Path) -> None:
    frames = sample_frames(write(tmp_path / "x.mp4", ramp(3)), 8)
    np.testing.assert_allclose(shades(frames), [0, 127, 255], atol=8)
    assert sample_frames(write(tmp_path / "y.mp4", ramp(2)[:1]), 8).shape == (1, 48, 64, 3)
    with pytest.raises(ValueError, match="count"):
        sample_frames(tmp_path / "x.mp4", 0)


def test_only_the_first_two_minutes_count(tmp_path: Path) -> None:
    pictures = ramp(240)  # one frame a second
    frames = sample_frames(write(tmp_path / "x.mp4", pictures, fps=1), 4)
    np.testing.assert_allclose(shades(frames), 255 / 239 * np.array([15, 45, 75, 105]), atol=6)


def test_a_longer_sound_track_is_no_fault(tmp_path: Path) -> None:
    frames = sample_frames(write(tmp_path / "x.mkv", ramp(), sound=True), 8)
    np.testing.assert_allclose(shades(frames)[-1], 255 / 59 * 56, atol=6)


def test_large_frames_are_scaled_down_and_long_ones_bounded(tmp_path: Path) -> None:
    assert sample_frames(write(tmp_path / "x.mp4", ramp(2, 1080, 1920), "mpeg4"), 1).shape == (1, 512, 910, 3)
    thin = sample_frames(write(tmp_path / "y.mp4", ramp(2, 720, 6400), "mpeg4"), 1)
    assert thin.shape[1] * thin.shape[2] <= (1 << 21) * 1.01


def test_a_clip_filmed_upright_is_turned(tmp_path: Path) -> None:
    data = write(tmp_path / "x.mp4", ramp(), "mpeg4").read_bytes()
    unit, zero, last = b"\0\1\0\0", b"\0" * 4, b"\x40\0\0\0"
    level = unit + zero * 3 + unit + zero * 3 + last
    turned = zero + unit + zero + b"\xff\xff\0\0" + zero * 4 + last  # right goes down: a quarter clockwise
    place = data.index(level, data.index(b"tkhd"))
    (tmp_path / "y.mp4").write_bytes(data[:place] + turned + data[place + len(turned) :])
    frames = sample_frames(tmp_path / "y.mp4", 2)
    assert frames.shape == (2, 64, 48, 3)
    assert (frames[:, 3, 24, 0] > 200).all()
    assert (frames[:, 3, 24, 1] < 60).all()


# The encoder


@pytest.fixture(scope="module")
def encoder() -> VideoEncoder:
    return VideoEncoder()


def scene(shared_data: Path, label: int, *, zoom: float = 1.3) -> np.ndarray:
    """A camera that moves over a photo, [frames, h, w, 3]."""
    photos = sorted((shared_data / "clothing_cc0" / "images").glob("*.jpg"))
    picture = Image.open(photos[label]).convert("RGB").resize((int(160 * zoom), int(120 * zoom)))
    room = (picture.width - 160, picture.height - 120)
    steps = np.linspace(0, 1, 24)
    return np.stack(
        [
            np.asarray(
                picture.crop((int(room[0] * s), int(room[1] * s), int(room[0] * s) + 160, int(room[1] * s) + 120))
            )
            for s in steps
        ]
    )


def test_vectors_are_mean_and_deviation_of_the_image_encoder(encoder: VideoEncoder, tmp_path: Path) -> None:
    clip = write(tmp_path / "x.mp4", ramp())
    encoded = encoder.encode([clip])
    assert encoded.values.shape == (1, 2560)
    pictures = []
    for number, frame in enumerate(sample_frames(clip, 8)):
        pictures.append(tmp_path / f"{number}.png")
        Image.fromarray(frame).save(pictures[-1])
    vectors = ImageEncoder().encode(pictures).values.astype(np.float64)
    expected = np.concatenate([vectors.mean(0), vectors.std(0)])
    np.testing.assert_allclose(encoded.values[0], expected, atol=1e-4)
    assert encoded.values[0, 1280:].max() > 0


def test_nearest_clips_show_the_same_scene(encoder: VideoEncoder, shared_data: Path, tmp_path: Path) -> None:
    paths, labels = [], []
    for label in (0, 300, 900):
        for take, (name, codec) in enumerate((("mp4", H264), ("avi", "mpeg4"))):
            pictures = scene(shared_data, label, zoom=1.2 + 0.2 * take)
            paths.append(write(tmp_path / f"{label}-{take}.{name}", pictures[:: 1 - 2 * take], codec))
            labels.append(label)
    values = encoder.encode(paths).values
    distance = np.linalg.norm(values[:, None] - values[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert [labels[n] for n in distance.argmin(1)] == labels


@needs("libx264")
@needs("libvpx-vp9")
def test_container_and_frame_rate_hardly_matter(encoder: VideoEncoder, shared_data: Path, tmp_path: Path) -> None:
    pictures, other = scene(shared_data, 0), scene(shared_data, 300)
    paths = [
        write(tmp_path / "a.mp4", pictures, "libx264"),
        write(tmp_path / "a.webm", pictures, "libvpx-vp9"),
        write(tmp_path / "slow.mp4", np.repeat(pictures, 2, axis=0), "libx264", fps=30),
        write(tmp_path / "other.mp4", other, "libx264"),
    ]
    values = encoder.encode(paths).values
    distance = np.linalg.norm(values - values[0], axis=1)
    assert (distance[1:3] < 0.25 * distance[3]).all()


def test_a_torchvision_model_by_file(tmp_path: Path) -> None:
    from torchvision import models

    path = tmp_path / "w.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(models.get_model("squeezenet1_1", weights=None).state_dict(), path)
    encoder = VideoEncoder("squeezenet1_1", str(path))
    clip = write(tmp_path / "x.mp4", ramp(4))
    encoded = encoder.encode([tmp_path / "gone.mp4", clip])
    assert encoded.values.shape == (2, 1024)
    np.testing.assert_array_equal(encoded.present, [False, True])
    assert encoder.encode([tmp_path / "gone.mp4"]).values.shape == (1, 1024)
    assert encoder.name == "torchvision/squeezenet1_1/256-224/frames-8-mean-deviation/120s"
    assert encoder.weights_sha256 == ImageEncoder("squeezenet1_1", str(path)).weights_sha256
    assert encoder.weights_sha256 != VideoEncoder().weights_sha256


def cut(ending: str, keep: float, **options: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        codec = {"webm": "libvpx", "avi": "mpeg4"}.get(ending, H264)
        data = write(path.parent / f"whole.{ending}", ramp(), codec, options=options).read_bytes()
        path.write_bytes(data[: int(keep * len(data))])

    return make


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        audio: Any = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(audio.encode(frame))
        container.mux(audio.encode())


def claiming(width: int, height: int) -> Callable[[Path], None]:
    """A small animated picture whose header claims other dimensions."""

    def make(path: Path) -> None:
        Image.new("L", (8, 8)).save(path, "GIF")
        data = path.read_bytes()
        path.write_bytes(data[:6] + width.to_bytes(2, "little") + height.to_bytes(2, "little") + data[10:])

    return make


def growing(path: Path) -> None:
    """Small in the container's header and the first frame, beyond bounds in the second."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=15)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuvj420p")))
        large: Any = av.CodecContext.create("mjpeg", "w")
        large.width, large.height, large.pix_fmt, large.time_base = 9008, 4000, "yuvj420p", stream.time_base
        for packet in large.encode(av.VideoFrame(9008, 4000, "yuvj420p")):
            packet.stream, packet.pts, packet.dts = stream, 1, 1
            container.mux(packet)


def listing(text: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        write(path.parent / "secret.mp4", ramp())
        path.write_text(text)

    return make


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nsecret.mp4\n#EXT-X-ENDLIST\n"
FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("x.mp4", lambda path: None, "no such file"),
    "a folder": ("x.mp4", lambda path: path.mkdir(), "no such file"),
    "empty": ("x.mp4", lambda path: path.write_bytes(b""), "empty file"),
    "text": ("x.mp4", lambda path: path.write_text("no clip\n" * 500), "damaged"),
    "zeros": ("x.webm", lambda path: path.write_bytes(bytes(5000)), "damaged"),
    "a picture": ("x.mp4", lambda path: Image.new("RGB", (8, 8)).save(path, "PNG"), "damaged"),
    "sound only": ("x.mp4", sound_only, "no picture track"),
    "index at the end is gone": ("x.mp4", cut("mp4", 0.5), "damaged"),
    "cut off, index at the start": ("x.mp4", cut("mp4", 0.6, movflags="faststart"), "cut off"),
    "cut off avi": ("x.avi", cut("avi", 0.5), "cut off"),
    "too large a frame": ("x.gif", claiming(10_000, 10_000), "are too many"),
    "too large a frame on the way": ("x.avi", growing, "damaged"),
    "a playlist": ("x.mp4", listing(PLAYLIST), "damaged"),
    "a list of parts": ("x.mp4", listing("ffconcat version 1.0\nfile secret.mp4\n"), "damaged"),
}  # fmt: skip
if "libvpx" in codecs_available:
    FAULTS["cut off webm"] = ("x.webm", cut("webm", 0.5), "cut off")


@pytest.mark.parametrize("name", FAULTS)
def test_unusable_clips_are_masked_with_the_reason(encoder: VideoEncoder, name: str, tmp_path: Path) -> None:
    file, make, reason = FAULTS[name]
    path = tmp_path / "case" / file
    path.parent.mkdir()
    make(path)
    encoded = encoder.encode([path])
    assert not encoded.present[0]
    assert reason in encoded.faults[0]
    assert encoded.values.shape == (1, 2560)
    assert (encoded.values == 0).all()


def test_a_playlist_would_open_other_files_without_the_fence(tmp_path: Path) -> None:
    listing("ffconcat version 1.0\nfile secret.mp4\n")(tmp_path / "x.mp4")
    with av.open(str(tmp_path / "x.mp4")) as container:  # what FFmpeg does by itself: the fence is needed
        assert next(container.decode(video=0)).width == 64
    assert video_fault(tmp_path / "x.mp4") is not None


@pytest.mark.parametrize("ending", ["mp4", "avi", *(["webm"] if "libvpx" in codecs_available else [])])
def test_random_damage_never_escapes(ending: str, tmp_path: Path) -> None:
    codec = {"webm": "libvpx", "avi": "mpeg4"}.get(ending, H264)
    data = write(tmp_path / f"whole.{ending}", ramp(20), codec).read_bytes()
    readable = 0
    for seed in range(30):
        generator = np.random.default_rng(seed)
        broken = bytearray(data)
        for _ in range(int(generator.integers(1, 20))):
            broken[int(generator.integers(len(data) if seed % 2 else 200))] = int(generator.integers(256))
        path = tmp_path / f"x.{ending}"
        path.write_bytes(bytes(broken))
        video_fault(path)
        try:
            readable += sample_frames(path, 3).shape[0] > 0
        except UnreadableRecordingError:
            continue
    assert readable < 30


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmfed.encoders.extras.find_spec", lambda name: None)
    with pytest.raises(MmfedError) as caught:
        VideoEncoder()
    assert caught.value.code == ExitCode.MISSING_EXTRA
    assert caught.value.fix == "pip install 'mmfed[video]'"


def test_store_encodes_video_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = (None,) * 4
    clips = [write(tmp_path / f"{n}.mp4", ramp(6)[:, :: 1 - 2 * (n % 2)]) for n in range(2)]
    (tmp_path / "cut.mp4").write_bytes(clips[0].read_bytes()[:200])
    prices = np.full(4, np.nan, dtype=np.float32)
    bare = Catalogue(item_ids=tuple("abcd"), titles=nothing, texts=nothing, images=nothing, prices=prices)
    shop = replace(bare, videos=(clips[0], tmp_path / "cut.mp4", None, clips[1]))
    raw = EncoderSection(dimensions=None, whiten=False)
    section = FeaturesSection(modalities=("video",), cache=tmp_path / "cache", video=raw)
    built = catalogue_features(shop, section)
    np.testing.assert_array_equal(built.modalities["video"].present, [True, False, False, True])
    assert built.modalities["video"].values.shape == (4, 2560)
    assert len(built.notes) == 1
    assert built.notes[0].startswith("video: cut.mp4: ")

    def refuse(*_: object) -> Encoded:
        raise AssertionError("encoded although cached")

    monkeypatch.setattr("mmfed.encoders.video.VideoEncoder.encode", refuse)
    assert catalogue_features(shop, section).digest == built.digest
    assert catalogue_features(bare, section).notes == ("video: no item has a video file; left out.",)
