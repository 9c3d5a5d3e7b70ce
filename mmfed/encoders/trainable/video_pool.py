"""Frames of a clip through the image network, averaged over time."""

from __future__ import annotations

import torch
from torch import Tensor

from mmfed.encoders.trainable.image_cnn import ImageCnn
from mmfed.encoders.trainable.masking import Sequences, mask_of, masked_mean
from mmfed.encoders.trainable.tower import Tower


class VideoPool(Tower):
    """Mean over a clip's frames of their ``ImageCnn`` vectors (the article's pooling over time).

    Args:
        width: columns of the vectors.
        generator: of the initial weights.
        image: the network for a frame, to train one for pictures and clips; None builds an own one.
    """

    def __init__(self, width: int, *, generator: torch.Generator, image: ImageCnn | None = None) -> None:
        super().__init__(width)
        self.image = ImageCnn(width, generator=generator) if image is None else image

    def forward(self, inputs: Sequences) -> Tensor:
        """Vectors [n, width] of frames [n, frames, 3, height, width] with values 0 to 255 and lengths [n]."""
        frames = inputs.values
        # Frame by frame: the first axis stays the clip's, which is what gradients per record are taken over.
        vectors = torch.stack([self.image(frames[:, step]) for step in range(frames.shape[1])], dim=1)
        return masked_mean(vectors, mask_of(inputs.lengths, frames.shape[1]))
