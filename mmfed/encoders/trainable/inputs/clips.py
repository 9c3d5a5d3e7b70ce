"""Video files as a few small frames each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mmfed.encoders.extras import require
from mmfed.encoders.trainable.inputs.pixels import SIDE
from mmfed.encoders.trainable.inputs.raw import RawInputs
from mmfed.encoders.trainable.masking import Sequences


def clip_frames(paths: Sequence[Path | None], *, count: int = 8, side: int = SIDE) -> RawInputs[Sequences]:
    """Centre squares of ``count`` frames evenly over each clip, values [items, count, 3, side, side] uint8.

    Raises:
        MmfedError: the reader of video files is not installed.
    """
    require("video", "av", "PIL")
    from PIL import Image, ImageOps

    from mmfed.data.recordings import UnreadableRecordingError
    from mmfed.encoders.frames import sample_frames

    values = np.zeros((len(paths), count, 3, side, side), dtype=np.uint8)
    lengths = np.zeros(len(paths), dtype=np.int64)
    faults: dict[int, str] = {}
    for row, path in enumerate(paths):
        if path is None:
            continue
        try:
            frames = sample_frames(path, count)
        except UnreadableRecordingError as error:
            faults[row] = str(error)
            continue
        for step, frame in enumerate(frames):
            square = ImageOps.fit(Image.fromarray(frame), (side, side), Image.Resampling.BICUBIC)
            values[row, step] = np.asarray(square).transpose(2, 0, 1)
        lengths[row] = len(frames)
    return RawInputs(Sequences(torch.from_numpy(values), torch.from_numpy(lengths)), lengths > 0, faults)
