"""Pictures as small pixel tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmfed.encoders.extras import require
from mmfed.encoders.trainable.inputs.raw import RawInputs

SIDE = 32


def picture_pixels(paths: Sequence[Path | None], *, side: int = SIDE) -> RawInputs[Tensor]:
    """Centre squares of the pictures, [items, 3, side, side] uint8; 3 kilobytes an item at side 32.

    Raises:
        MmfedError: Pillow is not installed.
    """
    require("vision", "PIL")
    from mmfed.encoders.pictures import UnreadablePictureError, read_picture

    values = np.zeros((len(paths), 3, side, side), dtype=np.uint8)
    present = np.zeros(len(paths), dtype=bool)
    faults: dict[int, str] = {}
    for row, path in enumerate(paths):
        if path is None:
            continue
        try:
            values[row] = read_picture(path, resize=side, crop=side).transpose(2, 0, 1)
            present[row] = True
        except UnreadablePictureError as error:
            faults[row] = str(error)
    return RawInputs(torch.from_numpy(values), present, faults)
