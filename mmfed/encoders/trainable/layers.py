"""Layers whose initial weights come from an explicit generator."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv1d, nn.Conv2d)


def drawn(kind: type[Layer], *arguments: int, generator: torch.Generator, **settings: Any) -> Layer:
    """``kind(*arguments, **settings)`` with weights and bias uniform in ±1/√fan-in (PyTorch's own default), without
    touching the global generator, which the constructor would."""
    layer = cast("Layer", nn.utils.skip_init(kind, *arguments, **settings))
    bound = max(1, layer.weight[0].numel()) ** -0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        if layer.bias is not None:
            layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def embedding(count: int, width: int, *, generator: torch.Generator, scale: float) -> nn.Embedding:
    """A [count, width] table with entries N(0, scale²)."""
    return nn.Embedding(count, width, _weight=torch.randn(count, width, generator=generator) * scale)
