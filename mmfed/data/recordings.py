"""Sound and video files of a catalogue, of unknown origin: opened within bounds, or the reason why not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream
    from soundfile import SoundFile

LOWEST_RATE, HIGHEST_RATE = 4_000, 384_000  # samples per second
MOST_CHANNELS = 32
MOST_VIDEO_PIXELS = 8192 * 4352  # 8K, the largest a camera records
# Named so that a file can never make FFmpeg open another one (playlists and lists of parts name files and addresses).
_CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,gif"
_UNKNOWN_VIDEO = "damaged, or a kind of video that FFmpeg does not read"
_HEAD, _TAIL = 64, 1 << 17


class UnreadableRecordingError(Exception):
    """A sound or video file that gives no samples or frames; the message is the reason, in a few words."""


@contextmanager
def open_sound(path: Path) -> Iterator[SoundFile]:
    """The file open for reading; WAV, AIFF, FLAC, Ogg (Vorbis, Opus) or MP3, told from its bytes, not its name.

    Raises:
        UnreadableRecordingError: missing, empty, cut off or not such a file; also for whatever the decoder raises
            inside the ``with`` block.
        ModuleNotFoundError: soundfile is not installed.
    """
    import soundfile

    size = _size(path)
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(_HEAD)
            file.seek(max(0, size - _TAIL))
            tail = file.read()
            if not _has_sound_start(head):
                raise UnreadableRecordingError("not a WAV, AIFF, FLAC, Ogg or MP3 file")
            if _is_cut_off(head, tail, size):
                raise UnreadableRecordingError("the sound is cut off")
            file.seek(0)
            # By descriptor: libsndfile then neither guesses from the name nor calls back into Python.
            with soundfile.SoundFile(file.fileno(), closefd=False) as sound:
                if not LOWEST_RATE <= sound.samplerate <= HIGHEST_RATE or not 1 <= sound.channels <= MOST_CHANNELS:
                    told = f"{sound.samplerate} samples per second in {sound.channels} channels"
                    raise UnreadableRecordingError(f"{told} are out of range")
                yield sound
    except UnreadableRecordingError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError) as error:  # LibsndfileError is a RuntimeError
        raise UnreadableRecordingError("damaged, or a kind of sound that libsndfile does not read") from error


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its first video stream, ready to be decoded by one thread.

    Raises:
        UnreadableRecordingError: missing, empty, damaged, without a picture track or with too large a one; also for
            whatever the decoder raises inside the ``with`` block.
        ModuleNotFoundError: PyAV is not installed.
    """
    import av
    from av.error import FFmpegError
    from av.video.stream import VideoStream

    _size(path)
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
    try:
        with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
            stream = container.streams.best("video")  # not a cover picture, where there is a film as well
            if not isinstance(stream, VideoStream):
                raise UnreadableRecordingError("no picture track")
            decoder: VideoCodecContext | None = stream.codec_context
            if decoder is None:
                raise UnreadableRecordingError(_UNKNOWN_VIDEO)
            if decoder.width * decoder.height > MOST_VIDEO_PIXELS:
                raise UnreadableRecordingError(f"{decoder.width} x {decoder.height} pixels are too many")
            decoder.options = {"max_pixels": str(MOST_VIDEO_PIXELS)}  # also where the size changes on the way
            decoder.thread_count = 1
            yield container, stream
    except UnreadableRecordingError:
        raise
    except (FFmpegError, OSError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise UnreadableRecordingError(_UNKNOWN_VIDEO) from error


def sound_fault(path: Path) -> str | None:
    """Why a file cannot be used as sound, or None; reads the header and a second of sound.

    Raises:
        ModuleNotFoundError: soundfile is not installed.
    """
    try:
        with open_sound(path) as sound:
            return None if len(sound.read(sound.samplerate, dtype="float32", always_2d=True)) else "no samples"
    except UnreadableRecordingError as error:
        return str(error)


def video_fault(path: Path) -> str | None:
    """Why a file cannot be used as video, or None; reads the header and the first frame.

    Raises:
        ModuleNotFoundError: PyAV is not installed.
    """
    try:
        with open_video(path) as (container, stream):
            return None if next(container.decode(stream), None) is not None else "no frames"
    except UnreadableRecordingError as error:
        return str(error)


def _size(path: Path) -> int:
    """Bytes of the file; raises where there is none to open."""
    if not path.is_file():
        raise UnreadableRecordingError("no such file")
    size = path.stat().st_size
    if size == 0:
        raise UnreadableRecordingError("empty file")
    return size


def _has_sound_start(head: bytes) -> bool:
    if head[:4] in (b"RIFF", b"RIFX", b"RF64"):
        return head[8:12] == b"WAVE"
    if head[:4] == b"FORM":
        return head[8:12] in (b"AIFF", b"AIFC")
    mpeg_layer = head[1:2] and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06 != 0
    return head[:4] in (b"fLaC", b"OggS") or head[:3] == b"ID3" or bool(mpeg_layer)


def _is_cut_off(head: bytes, tail: bytes, size: int) -> bool:
    """Whether the file ends before its own end; formats that do not say where that is count as whole."""
    if head[:4] in (b"RIFF", b"FORM"):
        declared = int.from_bytes(head[4:8], "little" if head[:4] == b"RIFF" else "big") + 8
        return size < declared < 0x7FFFFF00  # what is written to a pipe claims the largest number there is
    if head[:4] == b"OggS":
        page = tail.rfind(b"OggS")
        segments = tail[page + 27 : page + 27 + tail[page + 26]] if 0 <= page < len(tail) - 26 else b""
        whole = bool(segments) and page + 27 + len(segments) + sum(segments) <= len(tail)
        return not (whole and tail[page + 5] & 0x04)  # the last page of a stream says that it is the last
    return False
