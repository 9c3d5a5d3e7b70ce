"""Many devices at once take the steps that each takes alone, and those of Opacus."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import random_histories, relative_error, tiny_config, tiny_model, work_of

from mmfed.models.registry import RECOMMENDERS
from mmfed.privacy.mechanisms import SeededNoise
from mmfed.training import record_cohort
from mmfed.training.batch import Histories
from mmfed.training.record import Device, train_devices_privately, train_user_privately

LENGTHS = ((4, 5, 6), (), (1,), (3, 8, 2, 2, 7), (9,))


def configured(*more: str):
    return tiny_config(
        "privacy.mode=record",
        "privacy.clip_norm=0.2",
        "privacy.record_batch=4",
        "privacy.record_sample_rate=0.7",
        "training.positions=3",
        "training.learning_rate=0.5",
        "training.steps=3",
        "training.objective=bpr",
        *more,
    )


def devices_of(lengths=LENGTHS) -> list[Device]:
    found = []
    for number, one in enumerate(lengths):
        records = random_histories(one, seed=number)
        keys = records.keys + np.uint64(1000 * number)
        noise = SeededNoise(number)

        def drawn(size, purpose, noise=noise):
            return noise.standard_normal(size, round_number=1, purpose=purpose)

        found.append(Device(Histories(keys, records.indptr, records.items), drawn, 7 + number))
    return found


def alone(model, devices, config, **engine):
    work = work_of(config)
    return [
        train_user_privately(model, one.records, work, noise_multiplier=1.3, noise=one.noise, sample_key=one.sample_key)
        for one in devices
    ]


def differ(found, expected) -> float:
    return max(relative_error(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("fusion", ["default", "gated"])
@pytest.mark.parametrize("name", RECOMMENDERS)
def test_devices_together_are_each_alone_and_opacus(name, fusion):
    more = (f"model.name={name}", f"model.fusion={fusion}")
    config, reference = configured(*more), configured(*more, "training.engine=reference")
    model, devices = tiny_model(config), devices_of()
    together = train_devices_privately(model, devices, work_of(config), noise_multiplier=1.3)
    assert differ(together, alone(model, devices, config)) < 1e-9
    assert differ(together, alone(model, devices, reference)) < 1e-9


@pytest.mark.parametrize("objective", ["mse", "softmax", "bce"])
def test_other_objectives(objective):
    config = configured(f"training.objective={objective}", "model.name=mf")
    reference = configured(f"training.objective={objective}", "model.name=mf", "training.engine=reference")
    model, devices = tiny_model(config), devices_of()
    together = train_devices_privately(model, devices, work_of(config), noise_multiplier=1.3)
    assert differ(together, alone(model, devices, reference)) < 1e-9


def test_chunks_and_groups_do_not_show(monkeypatch):
    config = configured("model.name=mf", "model.fusion=gated")
    model, devices = tiny_model(config), devices_of()
    whole = train_devices_privately(model, devices, work_of(config), noise_multiplier=1.3)
    monkeypatch.setattr(record_cohort, "WINDOWS", 2)  # a device's windows fall into several chunks
    monkeypatch.setattr(record_cohort, "DEVICE_BYTES", 1)
    assert record_cohort.devices_at_once(model) == 1
    parts = train_devices_privately(model, devices, work_of(config), noise_multiplier=1.3)
    assert differ(parts, whole) < 1e-12


def test_devices_draw_their_own_noise_and_coins():
    config = configured("model.name=mf")
    model = tiny_model(config)
    empty = train_devices_privately(model, devices_of(((), ())), work_of(config), noise_multiplier=1.3)
    assert differ(empty[:1], empty[1:]) > 0.5
    assert train_devices_privately(model, [], work_of(config), noise_multiplier=1.3) == []
