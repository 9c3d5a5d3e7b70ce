"""The beginning of a sound file as one channel of samples at a chosen rate."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from mmfed.data.recordings import UnreadableRecordingError, open_sound

SAMPLE_RATE = 16_000  # samples per second: speech, and what most audio models were trained at
MAXIMUM_SECONDS = 60
_SILENCE = 1e-4  # -80 dB of full scale: three steps of 16 bits


def read_sound(path: Path, *, rate: int = SAMPLE_RATE, seconds: float = MAXIMUM_SECONDS) -> np.ndarray:
    """Samples of the first ``seconds``, [samples] float32: channels averaged, mean removed, largest magnitude 1.

    Raises:
        UnreadableRecordingError: missing, empty, cut off, damaged, silent or not sound.
    """
    with open_sound(path) as sound, np.errstate(over="ignore", invalid="ignore"):
        wanted = min(sound.frames, int(seconds * sound.samplerate))
        blocks: list[np.ndarray] = []
        found = 0
        while found < wanted:
            block = sound.read(min(sound.samplerate, wanted - found), dtype="float64", always_2d=True)
            if len(block) == 0:
                break
            found += len(block)
            blocks.append(block.mean(axis=1))
        tolerated = 0.1 * sound.samplerate + 0.01 * wanted  # MP3 headers count whole frames, and often one too many
        if wanted and found < wanted - tolerated:
            raise UnreadableRecordingError("the sound is cut off")
        source_rate = int(sound.samplerate)
    if not found:
        raise UnreadableRecordingError("no samples")
    return _resampled(_levelled(np.concatenate(blocks)), source_rate, rate)


def _levelled(samples: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        samples -= samples.mean()
        peak = np.abs(samples).max()
    if not np.isfinite(peak):
        raise UnreadableRecordingError("samples that are not numbers")
    if peak < _SILENCE:
        raise UnreadableRecordingError("silence throughout")
    return (samples / peak).astype(np.float32)


def _resampled(samples: np.ndarray, source_rate: int, rate: int) -> np.ndarray:
    if source_rate == rate:
        return samples
    from scipy.signal import resample_poly

    ratio = Fraction(rate, source_rate).limit_denominator(1000)  # short filters; nobody hears a part in a million
    return resample_poly(samples, ratio.numerator, ratio.denominator).astype(np.float32)
