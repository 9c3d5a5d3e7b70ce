"""Recordings as log-mel frames of different lengths in one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mmfed.encoders.trainable.inputs.raw import RawInputs
from mmfed.encoders.trainable.masking import Sequences


def recording_frames(paths: Sequence[Path | None], *, longest: int = 1000) -> RawInputs[Sequences]:
    """Log-mel frames of the recordings, values [items, frames, bands] float32, as long as the longest one and at most
    ``longest`` frames (100 a second).

    Raises:
        MmfedError: the reader of sound files is not installed.
    """
    from mmfed.data.recordings import UnreadableRecordingError
    from mmfed.encoders.mel import BANDS, log_mel

    clips: dict[int, np.ndarray] = {}
    faults: dict[int, str] = {}
    for row, path in enumerate(paths):
        if path is None:
            continue
        try:
            clips[row] = log_mel(path, seconds=longest / 100 + 0.1)[:longest]
        except UnreadableRecordingError as error:
            faults[row] = str(error)
    steps = max((len(clip) for clip in clips.values()), default=1)
    values = np.zeros((len(paths), steps, BANDS), dtype=np.float32)
    lengths = np.zeros(len(paths), dtype=np.int64)
    for row, clip in clips.items():
        values[row, : len(clip)] = clip
        lengths[row] = len(clip)
    return RawInputs(Sequences(torch.from_numpy(values), torch.from_numpy(lengths)), lengths > 0, faults)
