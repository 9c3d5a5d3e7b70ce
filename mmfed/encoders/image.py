"""Frozen image encoders: EfficientNet-Lite0 from pip, or any torchvision classifier without its head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from mmfed.encoders.backbones import Backbone, lite0, torchvision_backbone
from mmfed.encoders.encoder import Encoded
from mmfed.encoders.extras import require
from mmfed.encoders.parallel import map_blocks
from mmfed.records import sha256_file


class ImageEncoder:
    """Pooled features of the last layer before the classifier.

    Args:
        encoder: "default" (EfficientNet-Lite0, 1280-d) or a torchvision model name.
        weights: "default", a torchvision weights name, or a file (``.pth`` state dict or ``.safetensors``).
        batch: pictures held in memory at a time.

    Raises:
        MmfedError: a package, model name or weights file is missing, or weights do not fit the model.
    """

    def __init__(self, encoder: str = "default", weights: str = "default", *, batch: int = 32) -> None:
        require("vision", "PIL")
        self._batch = batch
        self._backbone: Backbone = lite0(weights) if encoder == "default" else torchvision_backbone(encoder, weights)

    @property
    def name(self) -> str:
        """Architecture and preprocessing, as it stands in the cache record."""
        return self._backbone.name

    @property
    def weights_sha256(self) -> str:
        """Hash of the weights file."""
        return self._weights_sha256

    @cached_property
    def _weights_sha256(self) -> str:
        return sha256_file(self._backbone.weights)

    @cached_property
    def _network(self) -> torch.nn.Module:
        return self._backbone.build().eval().to(memory_format=torch.channels_last)

    def encode(self, inputs: Sequence[Path]) -> Encoded:
        """Vectors of the pictures, [pictures, d] float32; those that cannot be read are absent, with the reason."""
        faults: dict[int, str] = {}
        found: dict[int, np.ndarray] = {}
        for start in range(0, len(inputs), self._batch):
            self._encode_batch(inputs[start : start + self._batch], start, found, faults)
        width = len(next(iter(found.values()))) if found else self._width
        values = np.zeros((len(inputs), width), dtype=np.float32)
        present = np.zeros(len(inputs), dtype=bool)
        for row, vector in found.items():
            if np.isfinite(vector).all():
                values[row], present[row] = vector, True
            else:
                faults[row] = "the encoder gave no finite numbers"
        return Encoded(values, present, faults)

    def _encode_batch(
        self, paths: Sequence[Path], start: int, found: dict[int, np.ndarray], faults: dict[int, str]
    ) -> None:
        from mmfed.encoders.pictures import UnreadablePictureError, read_picture

        rows: list[int] = []

        def blocks() -> Iterator[np.ndarray]:
            pixels: list[np.ndarray] = []
            for row, path in enumerate(paths, start=start):
                try:
                    pixels.append(read_picture(path, resize=self._backbone.resize, crop=self._backbone.crop))
                except UnreadablePictureError as error:
                    faults[row] = str(error)
                    continue
                rows.append(row)
                if len(pixels) == self._backbone.block:
                    yield np.stack(pixels)
                    pixels.clear()
            if pixels:
                yield np.stack(pixels)

        self._network  # noqa: B018 - loaded here, once, rather than by several threads at the same time
        vectors = [vector for block in map_blocks(self._forward, blocks()) for vector in block]
        found.update(zip(rows, vectors, strict=True))

    @cached_property
    def _width(self) -> int:
        blank = np.zeros((1, self._backbone.crop, self._backbone.crop, 3), dtype=np.uint8)
        return self._forward(blank).shape[1]

    def _forward(self, pixels: np.ndarray) -> np.ndarray:
        """[pictures, side, side, 3] uint8 -> [pictures, d] float32."""
        with torch.inference_mode():
            # Pixels lie channel-last already, so the permuted view is in the layout the convolutions are fastest in.
            batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32)
            mean = torch.tensor(self._backbone.mean).view(1, 3, 1, 1)
            deviation = torch.tensor(self._backbone.deviation).view(1, 3, 1, 1)
            return self._network((batch - mean) / deviation).flatten(1).numpy()
