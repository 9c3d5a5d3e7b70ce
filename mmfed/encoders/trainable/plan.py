"""What trained weights do to one modality of a catalogue: the network, and the public inputs that it reads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mmfed.encoders.trainable.registry import Training, build_tower
from mmfed.encoders.trainable.tower import Tower
from mmfed.types import BoolArray


@dataclass(frozen=True, eq=False)
class Projection:
    """A fixed affine map behind a tower, ``(x - mean) @ directions``: the reduction of the frozen features.

    Attributes:
        mean: [width]
        directions: [width, columns]
    """

    mean: Tensor
    directions: Tensor


@dataclass(frozen=True, eq=False)
class TowerPlan:
    """A modality with trained weights.

    Attributes:
        modality: "image", "text", "attributes", "audio" or "video".
        training: "full" learns from raw inputs, "adapter" changes what a frozen backbone gives.
        width: columns of the vectors.
        network: a name of ``registry.NETWORKS``, or "default".
        scope: "shared" weights are aggregated; a "private" adapter stays on the user's device.
        inputs: raw inputs, a tensor or named tuple of tensors with a row per item; None for frozen features.
        present: [items] bool, true where there is a raw input; None for the frozen features' own presence.
        settings: of the network's class; a function in them is called for the value.
        projection: what follows the network; None for nothing.
        made_with: fingerprint of what the inputs were made with (vocabulary, model files).
    """

    modality: str
    training: Training
    width: int
    network: str = "default"
    scope: Literal["shared", "private"] = "shared"
    inputs: Any = None
    present: BoolArray | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    projection: Projection | None = None
    made_with: str = ""

    def build(self, generator: torch.Generator) -> Tower:
        """The freshly initialised tower of a shared plan.

        Raises:
            MmfedError: no network of that name fits the modality.
        """
        settings = {name: value() if callable(value) else value for name, value in self.settings.items()}
        return build_tower(
            self.network, modality=self.modality, training=self.training, generator=generator, **settings
        )

    def vectors(self, tower: nn.Module, frozen: Tensor) -> Tensor:
        """[items, width] what the recommender reads, on the scale of whitened features.

        Args:
            tower: of this plan.
            frozen: [items, width] the frozen features; not read where there are raw inputs.
        """
        found = tower(frozen if self.inputs is None else self.inputs)
        if self.projection is not None:
            return (found - self.projection.mean.to(found.dtype)) @ self.projection.directions.to(found.dtype)
        if self.training == "full":  # a mean square of 1 per item, as whitened columns have over the items
            return found * (found.square().mean(1, keepdim=True) + 1e-6).rsqrt()
        return found

    def digest_parts(self) -> Iterator[bytes]:
        """Everything public that decides the vectors besides the trained weights, as bytes."""
        yield f"{self.modality} {self.training} {self.network} {self.scope} {self.width} {self.made_with}".encode()
        raw = () if self.inputs is None else (self.inputs,) if isinstance(self.inputs, Tensor) else self.inputs
        fixed = () if self.projection is None else (self.projection.mean, self.projection.directions)
        held = [value for _, value in sorted(self.settings.items()) if isinstance(value, Tensor)]
        for tensor in (*raw, *fixed, *held):
            yield f"{tuple(tensor.shape)} {tensor.dtype}".encode()
            yield hashlib.sha256(np.ascontiguousarray(tensor.numpy()).tobytes()).digest()
        if self.present is not None:
            yield np.packbits(self.present).tobytes()
        for name, value in sorted(self.settings.items()):
            if not isinstance(value, Tensor) and not callable(value):
                yield f"{name}={value!r}".encode()
