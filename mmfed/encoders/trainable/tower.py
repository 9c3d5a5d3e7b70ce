"""The contract of a trainable item encoder."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Self

from torch import Tensor, nn


class Tower(nn.Module, ABC):
    """Raw inputs of items to vectors, trained on the device together with the recommender.

    A tower's ``parameters()`` are exactly what training may change; frozen weights it reads are buffers that are not
    saved. Its initial weights come from the generator it is given and nothing else. It works under
    ``torch.func.functional_call``, ``vmap`` and ``grad`` (gradients per user) and under Opacus (gradients per record):
    no layer mixes items, draws at random or changes a tensor in place.

    Args:
        width: columns of the vectors.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width = {width}: a tower gives at least one column")
        self.width = width

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copies share frozen weights: they never change, and are the largest thing there is."""
        memo.update({id(buffer): buffer for buffer in self.buffers()})
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self.__dict__, memo))
        return copied

    @abstractmethod
    def forward(self, inputs: Any) -> Tensor:
        """Vectors [n, width], in the precision of the parameters, from a tensor or named tuple of tensors whose first
        axis is n. Rows of items without an input are finite and must be masked by the caller."""
