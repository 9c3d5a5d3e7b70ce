"""A few frames of a video file, evenly over its time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmfed.data.recordings import MOST_VIDEO_PIXELS, UnreadableRecordingError, open_video

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAXIMUM_SECONDS = 120  # of a clip that count
MAXIMUM_FRAMES = 120 * 120  # of those seconds; more is no clip of a product
_SHORTER_SIDE = 512  # what is kept of a larger frame: encoders look at less
_MOST_KEPT = 1 << 21  # pixels of a kept frame
_WITHOUT_INDEX = ("mpegts", "mpeg")  # seeking misses the key frame asked for


@dataclass(frozen=True)
class _Timeline:
    """When the frames are shown, in units of the stream's time base, in order; and where decoding can begin."""

    times: tuple[int, ...]
    keys: tuple[int, ...]


def sample_frames(path: Path, count: int = 8) -> np.ndarray:
    """Frames in the middle of ``count`` equal parts of the clip's time, [frames, h, w, 3] uint8.

    The first two minutes count. A clip with fewer frames than ``count`` gives each once. Rotation is applied; frames
    whose shorter side is above 512 pixels are scaled down to it.

    Raises:
        UnreadableRecordingError: missing, empty, cut off, damaged, without frames, too large or not video.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, not {count}")
    with open_video(path) as (container, stream):
        timeline = _timeline(container, stream)
    wanted = _evenly(timeline.times, count)
    frames: list[np.ndarray] = []
    with open_video(path) as (container, stream):
        for frame in _decoded(container, stream, timeline, wanted):
            frames.append(_pixels(frame, None if not frames else frames[0].shape))
    if len(frames) < len(wanted):
        raise UnreadableRecordingError("the video is cut off")
    return np.stack(frames)


def _timeline(container: InputContainer, stream: VideoStream) -> _Timeline:
    """Read from the packets without decoding any."""
    times: list[int] = []
    keys: list[int] = []
    limit = None if stream.time_base is None else int(MAXIMUM_SECONDS / stream.time_base)
    for packet in container.demux(stream):
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None or packet.size == 0 or packet.is_discard:
            continue
        if limit is not None and times and time - times[0] > limit:
            break
        if len(times) == MAXIMUM_FRAMES:
            raise UnreadableRecordingError(f"more than {MAXIMUM_FRAMES} frames in {MAXIMUM_SECONDS} seconds")
        times.append(time)
        if packet.is_keyframe:
            keys.append(time)
    if not times:
        raise UnreadableRecordingError("no frames")
    if _is_short(container, stream, max(times) - min(times)):
        raise UnreadableRecordingError("the video is cut off")
    return _Timeline(tuple(sorted(set(times))), tuple(sorted(keys)))


def _is_short(container: InputContainer, stream: VideoStream, span: int) -> bool:
    """Whether the packets, ``span`` from first to last, cover clearly less time than the file declares."""
    if stream.time_base is None:
        return False
    if stream.duration is not None:
        declared = float(stream.duration * stream.time_base)
    elif container.duration is not None and len(container.streams) == 1:  # else it may be that of the sound
        declared = container.duration / 1_000_000
    else:
        return False
    return float(span * stream.time_base) < 0.8 * min(declared, MAXIMUM_SECONDS) - 0.5


def _evenly(times: tuple[int, ...], count: int) -> list[int]:
    """The times of the frames on screen in the middle of ``count`` equal parts, without repeats."""
    shown = np.asarray(times, dtype=np.float64)
    end = shown[-1] + (np.median(np.diff(shown)) if len(shown) > 1 else 1.0)
    middles = shown[0] + (end - shown[0]) * (np.arange(count) + 0.5) / count
    return [times[index] for index in sorted(set(np.searchsorted(shown, middles, side="right") - 1))]


def _decoded(
    container: InputContainer, stream: VideoStream, timeline: _Timeline, wanted: list[int]
) -> Iterator[VideoFrame]:
    """The frames shown at the wanted times; jumps to a key frame where that saves decoding what lies between."""
    last = timeline.times[0]
    decoder: Iterator[VideoFrame] = container.decode(stream)
    for time in wanted:
        key = max((key for key in timeline.keys if key <= time), default=last)
        if key > last and container.format.name not in _WITHOUT_INDEX:
            container.seek(key, stream=stream)
            decoder = container.decode(stream)
        for frame in decoder:
            shown = frame.pts if frame.pts is not None else frame.dts
            if shown is not None and shown >= time:
                last = shown
                yield frame
                break
        else:
            return


def _pixels(frame: VideoFrame, shape: tuple[int, ...] | None) -> np.ndarray:
    """A frame as upright RGB, [h, w, 3] uint8, scaled to ``shape`` where that is given."""
    if frame.width * frame.height > MOST_VIDEO_PIXELS:
        raise UnreadableRecordingError(f"{frame.width} x {frame.height} pixels are too many")
    turns = round(frame.rotation / 90) % 4
    if shape is None:
        shrink = min(
            1.0,
            _SHORTER_SIDE / min(frame.width, frame.height),
            (_MOST_KEPT / (frame.width * frame.height)) ** 0.5,
        )
        width, height = (max(1, round(side * shrink)) for side in (frame.width, frame.height))
    else:
        height, width = shape[:2] if turns % 2 == 0 else (shape[1], shape[0])
    pixels = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA").to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, turns))
