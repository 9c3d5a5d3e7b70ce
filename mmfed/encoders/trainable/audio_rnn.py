"""Log-mel frames to vectors: a GRU, or convolutions over time."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmfed.encoders.trainable.layers import drawn
from mmfed.encoders.trainable.masking import Sequences, last_step, mask_of, masked_mean
from mmfed.encoders.trainable.recurrence import Gru
from mmfed.encoders.trainable.tower import Tower


class _AudioTower(Tower):
    """Levels each clip, then hands frames with zeros behind the clip to ``_states``."""

    def forward(self, inputs: Sequences) -> Tensor:
        """Vectors [n, width] of log-mel frames [n, frames, bands] and lengths [n]; frames behind a clip's length are
        without effect."""
        mask = mask_of(inputs.lengths, inputs.values.shape[1])
        return self._pooled(_levelled(inputs.values.to(self.project.weight.dtype), mask), inputs.lengths)

    project: nn.Linear

    @abstractmethod
    def _pooled(self, values: Tensor, lengths: Tensor) -> Tensor: ...


class AudioGru(_AudioTower):
    """Means of ``stride`` frames through a GRU, the state after the last one, linear map.

    Args:
        width: columns of the vectors.
        bands: mel bands of a frame.
        hidden: size of the state.
        stride: frames taken together; at 10 ms a frame, 4 gives the 40 ms that speech changes in.
        generator: of the initial weights.
    """

    def __init__(
        self, width: int, *, bands: int, generator: torch.Generator, hidden: int = 64, stride: int = 4
    ) -> None:
        super().__init__(width)
        self.stride = stride
        self.recurrent = Gru(bands, hidden, generator=generator)
        self.project = drawn(nn.Linear, hidden, width, generator=generator)

    def _pooled(self, values: Tensor, lengths: Tensor) -> Tensor:
        short = -values.shape[1] % self.stride
        blocks = functional.pad(values, (0, 0, 0, short)).unflatten(1, (-1, self.stride))
        inside = mask_of(lengths, values.shape[1] + short).unflatten(1, (-1, self.stride)).sum(2)
        means = blocks.sum(2) / inside[:, :, None].clamp(min=1)
        return self.project(last_step(self.recurrent(means), _blocks(lengths, self.stride)))


class AudioCnn(_AudioTower):
    """Two convolutions over time with layer normalisation per step, mean over the clip, linear map.

    Args:
        width: columns of the vectors.
        bands: mel bands of a frame.
        channels: of the convolutions.
        kernel: steps a filter sees; odd.
        stride: of each convolution.
        generator: of the initial weights.
    """

    def __init__(
        self,
        width: int,
        *,
        bands: int,
        generator: torch.Generator,
        channels: int = 64,
        kernel: int = 5,
        stride: int = 2,
    ) -> None:
        super().__init__(width)
        self.stride = stride
        self.convolutions = nn.ModuleList(
            drawn(nn.Conv1d, before, channels, kernel, stride=stride, padding=kernel // 2, generator=generator)
            for before in (bands, channels)
        )
        # Per step rather than per clip: statistics over time would depend on how much padding there is.
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.project = drawn(nn.Linear, channels, width, generator=generator)

    def _pooled(self, values: Tensor, lengths: Tensor) -> Tensor:
        mask = mask_of(lengths, values.shape[1])
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            values = functional.relu(norm(convolution(values.transpose(1, 2)).transpose(1, 2)))
            lengths = _blocks(lengths, self.stride)
            mask = mask_of(lengths, values.shape[1])
            values = torch.where(mask[:, :, None], values, 0.0)
        return self.project(masked_mean(values, mask))


def _blocks(lengths: Tensor, stride: int) -> Tensor:
    return (lengths + stride - 1) // stride


def _levelled(values: Tensor, mask: Tensor) -> Tensor:
    """Each clip with mean 0 and variance 1 over its frames and bands (how loud a recording is, is no content); zeros
    behind it."""
    count = (mask.sum(1) * values.shape[2]).clamp(min=1)[:, None, None]
    inside = mask[:, :, None]
    kept = torch.where(inside, values, 0.0)
    centred = torch.where(inside, kept - kept.sum((1, 2), keepdim=True) / count, 0.0)
    return centred / (centred.square().sum((1, 2), keepdim=True) / count + 1e-5).sqrt()
