"""Server optimisers: the mean update of a round as a pseudo-gradient (Reddi et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmfed.config import ServerOptimiserSection

_FIRST, _SECOND = "first_moment", "second_moment"


class ServerOptimiser:
    """FedAvg, FedAdam or FedAdagrad on named float64 tensors.

    Args:
        section: name and constants.
        global_second_moment: one second moment, averaged over all parameters, for the whole model. Under noise a
            moment per parameter mostly measures the noise.
    """

    def __init__(self, section: ServerOptimiserSection, *, global_second_moment: bool) -> None:
        self._section = section
        self._global = global_second_moment
        self._steps = 0
        self._state: dict[str, Tensor] = {}

    def step(self, parameters: Mapping[str, Tensor], update: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """New parameters (same dtype as given) from the mean update of a round (float64)."""
        section = self._section
        self._steps += 1
        decay = 1.0 - section.learning_rate * section.weight_decay
        if section.name == "fedavg":
            moves = {name: section.learning_rate * value for name, value in update.items()}
        else:
            moves = self._adaptive(update)
        return {name: (value.double() * decay + moves[name]).to(value.dtype) for name, value in parameters.items()}

    def _adaptive(self, update: Mapping[str, Tensor]) -> dict[str, Tensor]:
        section = self._section
        adam = section.name == "fedadam"
        for name, value in update.items():
            first = self._state.setdefault(f"{_FIRST}.{name}", torch.zeros_like(value))
            second = self._state.setdefault(f"{_SECOND}.{name}", torch.zeros_like(value))
            first.mul_(section.beta1).add_(value, alpha=1 - section.beta1)
            if adam:
                second.mul_(section.beta2).addcmul_(value, value, value=1 - section.beta2)
            else:
                second.addcmul_(value, value)
        first_correction = 1 - section.beta1**self._steps
        second_correction = 1 - section.beta2**self._steps if adam else 1.0
        seconds = {name: self._state[f"{_SECOND}.{name}"] / second_correction for name in update}
        if self._global:
            count = sum(value.numel() for value in seconds.values())
            mean = torch.stack([value.sum() for value in seconds.values()]).sum() / count
            seconds = dict.fromkeys(seconds, mean)
        return {
            name: section.learning_rate
            * (self._state[f"{_FIRST}.{name}"] / first_correction)
            / (seconds[name].sqrt() + section.epsilon)
            for name in update
        }

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on, by name."""
        return dict(self._state) | {"steps": torch.tensor(self._steps, dtype=torch.int64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of ``state``."""
        self._steps = int(state["steps"])
        self._state = {name: value.clone() for name, value in state.items() if name != "steps"}
