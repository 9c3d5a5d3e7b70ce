"""Frozen video encoder: a few frames through an image encoder, pooled over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmfed.data.recordings import UnreadableRecordingError
from mmfed.encoders.encoder import Encoded
from mmfed.encoders.extras import require
from mmfed.encoders.frames import MAXIMUM_SECONDS, sample_frames
from mmfed.encoders.image import ImageEncoder
from mmfed.encoders.parallel import map_blocks

FRAMES = 8


class VideoEncoder:
    """Mean and deviation over 8 frames of the image encoder's vectors, one vector per clip.

    Args:
        encoder: "default" (EfficientNet-Lite0, 2 x 1280-d) or a torchvision model name, as for pictures.
        weights: as for pictures.
        batch: passed to the image encoder; it does not change the vectors.

    Raises:
        MmfedError: a package, model name or weights file is missing, or weights do not fit the model.
    """

    def __init__(self, encoder: str = "default", weights: str = "default", *, batch: int = 32) -> None:
        require("video", "av")
        self._images = _FrameEncoder(encoder, weights, batch=batch)

    @property
    def name(self) -> str:
        """Image encoder, frames and the seconds that count, as it stands in the cache record."""
        return f"{self._images.name}/frames-{FRAMES}-mean-deviation/{MAXIMUM_SECONDS}s"

    @property
    def weights_sha256(self) -> str:
        """Hash of the image encoder's weights file."""
        return self._images.weights_sha256

    def encode(self, inputs: Sequence[Path]) -> Encoded:
        """Vectors of the clips, [clips, 2 x d] float32; those that cannot be read are absent, with the reason."""
        faults: dict[int, str] = {}
        found: dict[int, np.ndarray] = {}
        for row, path in enumerate(inputs):
            try:
                vectors = self._images.encode_frames(sample_frames(path, FRAMES)).astype(np.float64)
            except UnreadableRecordingError as error:
                faults[row] = str(error)
                continue
            found[row] = np.concatenate([vectors.mean(0), vectors.std(0)]).astype(np.float32)
        width = 2 * self._images.width
        values = np.zeros((len(inputs), width), dtype=np.float32)
        present = np.zeros(len(inputs), dtype=bool)
        for row, vector in found.items():
            if np.isfinite(vector).all():
                values[row], present[row] = vector, True
            else:
                faults[row] = "the encoder gave no finite numbers"
        return Encoded(values, present, faults)


class _FrameEncoder(ImageEncoder):
    """The image encoder for pixels in memory, prepared as it prepares those of a file."""

    @property
    def width(self) -> int:
        """Width of a picture's vector."""
        return self._width

    def encode_frames(self, frames: np.ndarray) -> np.ndarray:
        """[frames, h, w, 3] uint8 -> [frames, d] float32."""
        resize, crop, block = self._backbone.resize, self._backbone.crop, self._backbone.block
        squares = np.stack([_centre(frame, resize, crop) for frame in frames])
        self._network  # noqa: B018 - loaded here, once, rather than by several threads at the same time
        blocks = [squares[start : start + block] for start in range(0, len(squares), block)]
        return np.concatenate(map_blocks(self._forward, blocks))


def _centre(frame: np.ndarray, resize: int, crop: int) -> np.ndarray:
    """The centre square of a frame whose shorter side is scaled to ``resize``, [crop, crop, 3] uint8."""
    from PIL import Image

    height, width = frame.shape[:2]
    side = min(width, height) * crop / resize
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    picture = Image.fromarray(frame).resize((crop, crop), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    return np.asarray(picture)
