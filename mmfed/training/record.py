"""Record-level privacy: DP-SGD on the device (Abadi et al. 2016), by Opacus or as fast as the cohort engine allows.

Guarantee: one window of at most ``window`` interactions (hence any one interaction); zero-out adjacency of one window;
the server is not trusted. A record is a window: interactions of one calendar span, with state, target and seen items
taken inside it, so that one interaction influences one clipped gradient and nothing else. The divisor is a public
constant.

With ``training.engine = "reference"`` every window's gradient is made and Opacus clips, sums and divides. Otherwise the
clipped sum comes from the cohort engine, a window in the place of a user: the same, without a gradient per window.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor

from mmfed.models.base import Recommender
from mmfed.rng import derive, hash_uniform
from mmfed.training.batch import Histories, joined, modality_mask, training_batch
from mmfed.training.cohort import train_cohort
from mmfed.training.record_cohort import DeviceSteps, devices_at_once, trains_together
from mmfed.training.update import LocalWork
from mmfed.training.whole import SequenceGradients
from mmfed.types import FloatArray, IntArray

SECONDS_A_DAY = 86_400.0
OPACUS_GUARD = 1e-6  # Opacus adds it to a norm before it divides by it

Noise = Callable[[int, str], FloatArray]  # (size, purpose) -> standard normal samples


def windows(items: IntArray, times: IntArray, *, key: int, window: int, days: float) -> Histories:
    """Cut one user's history (time order) into calendar windows; of each the first ``window`` interactions count.

    The cuts depend on the calendar alone, so adding or removing an interaction changes its own window only.

    Args:
        items, times: [events] item index and seconds since 1970.
        key: the user's key; a window's own key also depends on its calendar number.
    """
    number = np.floor_divide(times, SECONDS_A_DAY * days).astype(np.int64)
    starts = np.flatnonzero(np.diff(number, prepend=number[0] - 1)) if len(number) else np.zeros(0, dtype=np.int64)
    place = np.arange(len(number)) - np.repeat(starts, np.diff(starts, append=len(number)))
    kept = place < window
    counts = np.minimum(np.diff(starts, append=len(number)), window)
    keys = np.array([derive(key, "window", int(number[start])) for start in starts], dtype=np.uint64)
    return Histories(keys, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), np.asarray(items)[kept])


@dataclass(frozen=True, eq=False)
class Device:
    """What a device brings to DP-SGD.

    Attributes:
        records: its windows; none at all still gives noise-only steps.
        noise: standard normal samples.
        sample_key: names the stream of Poisson coins on this device.
    """

    records: Histories
    noise: Noise
    sample_key: int

    def chosen(self, work: LocalWork, step: int) -> Histories:
        """The Poisson sample of a step."""
        coins = hash_uniform(
            derive(self.sample_key, work.round_number, step), self.records.keys, np.zeros(1, dtype=np.int64)
        )
        return self.records.take(np.flatnonzero(coins[:, 0] < work.privacy.record_sample_rate))


def train_devices_privately(
    model: Recommender, devices: Sequence[Device], work: LocalWork, *, noise_multiplier: float
) -> list[dict[str, Tensor]]:
    """The change of the shared parameters on each device, as ``train_user_privately`` gives it."""
    if work.training.engine == "reference" or not trains_together(model, work):
        return [
            train_user_privately(
                model,
                device.records,
                work,
                noise_multiplier=noise_multiplier,
                noise=device.noise,
                sample_key=device.sample_key,
            )
            for device in devices
        ]
    found, most = [], devices_at_once(model)
    for start in range(0, len(devices), most):
        found += _trained_together(model, devices[start : start + most], work, noise_multiplier)
    return found


def _trained_together(
    model: Recommender, devices: Sequence[Device], work: LocalWork, noise_multiplier: float
) -> list[dict[str, Tensor]]:
    steps = DeviceSteps(model, len(devices), work, guard=OPACUS_GUARD)
    deviation, rate = noise_multiplier * work.privacy.clip_norm, work.training.learning_rate / work.privacy.record_batch
    for step in range(work.training.steps):
        chosen = [device.chosen(work, step) for device in devices]
        owners = np.repeat(np.arange(len(devices)), [len(one) for one in chosen])
        sums = steps.sums(joined(chosen), owners, step)
        for index, (name, moved) in enumerate(steps.moved.items()):
            for device, total in zip(devices, sums[name], strict=True):
                samples = device.noise(total.numel(), f"record step {step} parameter {index}")
                total.add_(torch.from_numpy(samples).view_as(total), alpha=deviation)
            moved.sub_(sums[name], alpha=rate)
    return [{name: value[at].double() for name, value in steps.moved.items()} for at in range(len(devices))]


def train_user_privately(
    model: Recommender,
    records: Histories,
    work: LocalWork,
    *,
    noise_multiplier: float,
    noise: Noise,
    sample_key: int,
) -> dict[str, Tensor]:
    """The change of the shared parameters after DP-SGD over the user's windows (float64, already private).

    Args:
        model: holds the global shared parameters; not changed.
        records: the user's windows; none at all still gives a noise-only step.
        noise_multiplier: σ relative to the clip norm.
        noise: standard normal samples.
        sample_key: names the stream of Poisson coins on this device.

    Returns:
        The change by parameter name.
    """
    local = copy.deepcopy(model)
    shared = local.shared_parameters()
    take_step = _opacus_step if work.training.engine == "reference" else _engine_step
    optimiser = _DeviceOptimiser(
        torch.optim.SGD(list(shared.values()), lr=work.training.learning_rate),
        noise_multiplier=noise_multiplier,
        max_grad_norm=work.privacy.clip_norm,
        expected_batch_size=work.privacy.record_batch,
        noise=noise,
    )
    for step in range(work.training.steps):
        take_step(local, optimiser, Device(records, noise, sample_key).chosen(work, step), work, step)
    before = model.shared_parameters()
    return {name: value.detach().double() - before[name].detach().double() for name, value in shared.items()}


def _opacus_step(
    local: Recommender, optimiser: _DeviceOptimiser, chosen: Histories, work: LocalWork, step: int
) -> None:
    """Every window's gradient, clipped, summed, noised and divided by Opacus."""
    shared = local.shared_parameters()
    for name, gradient in _per_window(local, chosen, work, step).items():
        shared[name].grad_sample = gradient  # type: ignore[attr-defined]
    optimiser.step()
    optimiser.zero_grad()


def _engine_step(
    local: Recommender, optimiser: _DeviceOptimiser, chosen: Histories, work: LocalWork, step: int
) -> None:
    """The clipped sum from the cohort engine; noise and division as Opacus has them."""
    once = {"learning_rate": 1.0, "steps": 1, "epochs": None, "optimiser": "sgd"}
    whole = {"mode": "user-central", "task_clip_norm": None}
    alone = replace(
        work,
        training=work.training.model_copy(update=once),
        privacy=work.privacy.model_copy(update=whole),
        first_step=step,
        norm_guard=OPACUS_GUARD,
    )
    dtype = next(local.parameters()).dtype
    moved = train_cohort(local, chosen, torch.zeros(len(chosen), local.private_dimensions, dtype=dtype), alone).total
    sums = {name: -value for name, value in moved.items()}
    optimiser.step_from(sums, local.shared_parameters(), divisor=work.privacy.record_batch)


def _per_window(model: Recommender, records: Histories, work: LocalWork, step: int) -> dict[str, Tensor]:
    """Gradient of every window by parameter name, [windows, *shape]; the first axis is 0 for an empty batch."""
    parameters = {name: value.detach() for name, value in model.shared_parameters().items()}
    if not len(records):
        return {name: value.new_zeros((0, *value.shape)) for name, value in parameters.items()}
    batch = training_batch(
        records,
        model=model,
        section=work.training,
        seed=work.seed,
        round_number=work.round_number,
        step=step,
        user_vectors=torch.zeros(len(records), model.private_dimensions),
        dtype=next(iter(parameters.values())).dtype,
    )
    mask = modality_mask(model, work.training, seed=work.seed, round_number=work.round_number, step=step)
    return SequenceGradients(model, parameters, work.training, mask)(batch)[0]


class _DeviceOptimiser(DPOptimizer):
    """Opacus' clipping and scaling, with noise from mmfed's noise source (Opacus' own is a Mersenne twister)."""

    def __init__(self, optimiser: torch.optim.Optimizer, *, noise: Noise, **options: float) -> None:
        super().__init__(optimiser, **options)  # type: ignore[arg-type]
        self._noise = noise
        self._step = 0

    def step_from(self, sums: dict[str, Tensor], shared: dict[str, torch.nn.Parameter], *, divisor: int) -> None:
        """A step from sums of clipped gradients; ``divisor`` is the public batch size."""
        for name, parameter in shared.items():
            parameter.summed_grad = sums[name].to(parameter.dtype)  # type: ignore[attr-defined]
        self.add_noise()
        for parameter in shared.values():
            if parameter.grad is not None:
                parameter.grad /= divisor
        self.original_optimizer.step()

    def add_noise(self) -> None:
        deviation = self.noise_multiplier * self.max_grad_norm
        for index, parameter in enumerate(self.params):
            samples = self._noise(parameter.numel(), f"record step {self._step} parameter {index}")
            noise = torch.from_numpy(samples).to(parameter.dtype).view_as(parameter) * deviation
            parameter.grad = (parameter.summed_grad + noise).view_as(parameter)  # type: ignore[attr-defined]
        self._step += 1
