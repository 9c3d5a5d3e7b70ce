"""Log-mel frames: sound as a picture of loudness over time and pitch."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from mmfed.encoders.sound import MAXIMUM_SECONDS, SAMPLE_RATE, read_sound

BANDS = 64
WINDOW, HOP, TRANSFORM = 400, 160, 512  # samples: 25 ms, 10 ms, and the transform's length
LOWEST, HIGHEST = 60.0, 7600.0  # hertz
RANGE = 80.0  # decibels below the loudest band of the loudest frame that still count
_BLOCK = 1024


def log_mel(path: Path, *, seconds: float = MAXIMUM_SECONDS) -> np.ndarray:
    """Log-mel frames of a sound file's first ``seconds``, [frames, bands] float32, 100 frames a second, 64 bands.

    A value is loudness relative to the loudest value of the recording: 1 there, 0 at 80 decibels below and less. So the
    recording level does not matter, and zeros are silence, which is what to pad shorter recordings with. Bands are
    triangles on the mel scale 2595 log10(1 + f/700) from 60 to 7600 Hz (Davis & Mermelstein 1980).

    Raises:
        UnreadableRecordingError: missing, empty, cut off, damaged, silent or not sound.
    """
    return mel_frames(read_sound(path, seconds=seconds))


def mel_frames(samples: np.ndarray) -> np.ndarray:
    """Log-mel frames of samples at 16 kHz, [samples] -> [frames, bands] float32; fewer than 25 ms give one frame."""
    if len(samples) < WINDOW:
        samples = np.pad(samples, (0, WINDOW - len(samples)))
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    filters = mel_filters()
    power = np.empty((len(frames), BANDS), dtype=np.float64)
    for start in range(0, len(frames), _BLOCK):
        spectrum = np.fft.rfft(frames[start : start + _BLOCK] * window, TRANSFORM)
        power[start : start + _BLOCK] = (spectrum.real**2 + spectrum.imag**2) @ filters.T
    loudest = max(float(power.max()), 1e-300)
    decibels = 10.0 * np.log10(np.maximum(power / loudest, 10.0 ** (-RANGE / 10.0)))
    return (1.0 + decibels / RANGE).astype(np.float32)


@cache
def mel_filters() -> np.ndarray:
    """Weights of the bands, [bands, frequencies] float64, triangles of height 1 that meet at their feet."""
    edges = _hertz(np.linspace(_mel(LOWEST), _mel(HIGHEST), BANDS + 2))
    frequencies = np.arange(TRANSFORM // 2 + 1) * (SAMPLE_RATE / TRANSFORM)
    rising = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    filters = np.maximum(0.0, np.minimum(rising, falling))
    filters.setflags(write=False)
    return filters


def _mel(hertz: float) -> float:
    return 2595.0 * float(np.log10(1.0 + hertz / 700.0))


def _hertz(mel: np.ndarray) -> np.ndarray:
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
