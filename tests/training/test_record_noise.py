"""DP-SGD on the device: what is clipped, what is added, and that it is Opacus' arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from opacus.optimizers import DPOptimizer
from scipy import stats
from tiny_models import norm_of, random_histories, relative_error, tiny_config, tiny_model, work_of

from mmfed.models.registry import RECOMMENDERS
from mmfed.privacy.mechanisms import SeededNoise
from mmfed.rng import derive, hash_uniform
from mmfed.training.record import _per_window, train_user_privately

SIGMA, CLIP, BATCH = 1.3, 0.2, 4


def configured(*more: str):
    return tiny_config(
        "privacy.mode=record",
        f"privacy.clip_norm={CLIP}",
        f"privacy.record_batch={BATCH}",
        "privacy.record_sample_rate=1",
        "training.positions=3",
        "training.learning_rate=0.5",
        *more,
    )


def silent(size, purpose):
    del purpose
    return np.zeros(size)


def seeded(seed):
    return lambda size, purpose: SeededNoise(seed).standard_normal(size, round_number=1, purpose=purpose)


def train(model, records, config, *, noise, sigma=SIGMA, sample_key=7, round_number=2):
    return train_user_privately(
        model,
        records,
        work_of(config, round_number=round_number),
        noise_multiplier=sigma,
        noise=noise,
        sample_key=sample_key,
    )


def flat(change):
    return np.concatenate([value.numpy().ravel() for value in change.values()])


def accepts(samples, deviation):
    statistic = float(np.square(samples / deviation).sum())
    tail = min(stats.chi2.cdf(statistic, samples.size), stats.chi2.sf(statistic, samples.size))
    return tail > 1e-7


@pytest.mark.parametrize("records", [random_histories(()), random_histories((4, 5, 6))], ids=["no window", "windows"])
def test_noise_has_the_promised_size_on_every_coordinate(records):
    config = configured()
    model = tiny_model(config)
    plain = flat(train(model, records, config, noise=silent))
    samples = np.stack([flat(train(model, records, config, noise=seeded(seed))) - plain for seed in range(20)])
    deviation = 0.5 * SIGMA * CLIP / BATCH
    assert accepts(samples, deviation)
    assert not accepts(samples, deviation * 2 / 3)
    assert not accepts(samples, deviation * 3 / 2)
    per_coordinate = np.square(samples / deviation).sum(0)
    assert (per_coordinate > stats.chi2.isf(1 - 1e-9, 20)).all(), "a coordinate without noise"
    assert np.abs(np.corrcoef(samples[:, :200].T)[np.triu_indices(200, 1)]).max() < 0.97, "two coordinates share noise"


def test_every_step_draws_its_own_noise():
    config = configured("training.steps=3")
    model = tiny_model(config)
    samples = flat(train(model, random_histories(()), config, noise=seeded(1)))
    assert accepts(samples, 0.5 * SIGMA * CLIP / BATCH * math.sqrt(3))
    assert not accepts(samples, 0.5 * SIGMA * CLIP / BATCH * 3)


def test_an_empty_sample_is_a_noise_only_step():
    config = configured("privacy.record_sample_rate=0.000001")
    model = tiny_model(config)
    alone = train(model, random_histories(()), config, noise=seeded(3))
    sampled_none = train(model, random_histories((4, 5)), config, noise=seeded(3))
    assert norm_of(alone) > 0
    assert relative_error(sampled_none, alone) == 0.0


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_the_sum_is_of_clipped_windows_over_the_public_divisor(rate):
    config = configured(f"privacy.record_sample_rate={rate}")
    model = tiny_model(config)
    records = random_histories((4, 1, 6, 2, 9, 3, 5, 2))
    change = train(model, records, config, noise=silent)
    coins = hash_uniform(derive(7, 2, 0), records.keys, np.zeros(1, dtype=np.int64))[:, 0]
    chosen = np.flatnonzero(coins < rate)
    assert rate == 1.0 or 0 < len(chosen) < len(records)
    gradients = _per_window(model, records.take(chosen), work_of(config), 0)
    norms = torch.stack([value.flatten(1).square().sum(1) for value in gradients.values()]).sum(0).sqrt()
    assert (norms > CLIP).any()
    factors = (CLIP / (norms + 1e-6)).clamp_max(1.0)  # Opacus' guard against division by zero
    expected = {name: -0.5 / BATCH * torch.tensordot(factors, value, dims=1) for name, value in gradients.items()}
    assert relative_error(change, expected) < 1e-10


def test_a_window_moves_the_model_by_at_most_the_clip_norm():
    config = configured("training.learning_rate=100")
    model = tiny_model(config)
    records = random_histories((4, 6, 9))
    everything = train(model, records, config, noise=silent)
    for window in range(3):
        rest = records.take(np.delete(np.arange(3), window))
        moved = {name: everything[name] - value for name, value in train(model, rest, config, noise=silent).items()}
        assert 0 < norm_of(moved) <= 100 * CLIP / BATCH * (1 + 1e-9)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("objective", ["softmax", "bce", "sampled-softmax"])
@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_the_engine_gives_what_opacus_gives(name, objective, steps):
    chosen = (f"model.name={name}", f"training.objective={objective}", f"training.steps={steps}")
    records = random_histories((4, 1, 6, 2, 9))
    changes = []
    for engine in ("cohort", "reference"):
        config = configured(*chosen, f"training.engine={engine}", "privacy.record_sample_rate=0.8")
        changes.append(train(tiny_model(config), records, config, noise=seeded(4), sigma=0.1))
    assert relative_error(*changes) < 1e-10


@pytest.mark.parametrize("steps", [1, 3])
def test_opacus_own_optimiser_gives_the_same(monkeypatch, steps):
    config = configured(f"training.steps={steps}", "privacy.record_sample_rate=0.6")
    model = tiny_model(config)
    records = random_histories((4, 1, 6, 2, 9))
    drawn = []

    def recorded(size, purpose):
        drawn.append(SeededNoise(5).standard_normal(size, round_number=1, purpose=purpose))
        return drawn[-1]

    ours = train(model, records, config, noise=recorded)
    waiting = iter(drawn)

    def same_noise(std, reference, generator=None, secure_mode=False):
        del generator, secure_mode
        return torch.from_numpy(next(waiting)).view_as(reference) * std

    monkeypatch.setattr("opacus.optimizers.optimizer._generate_noise", same_noise)
    theirs = tiny_model(config)
    shared = theirs.shared_parameters()
    optimiser = DPOptimizer(
        torch.optim.SGD(list(shared.values()), lr=0.5),
        noise_multiplier=SIGMA,
        max_grad_norm=CLIP,
        expected_batch_size=BATCH,
    )
    for step in range(steps):
        coins = hash_uniform(derive(7, 2, step), records.keys, np.zeros(1, dtype=np.int64))[:, 0]
        gradients = _per_window(theirs, records.take(np.flatnonzero(coins < 0.6)), work_of(config), step)
        for name, parameter in shared.items():
            parameter.grad_sample = gradients[name]
        optimiser.step()
        optimiser.zero_grad()
    moved = {name: value.detach() - model.shared_parameters()[name].detach() for name, value in shared.items()}
    assert relative_error(ours, moved) < 1e-12


def test_windows_join_at_the_promised_rate():
    keys = np.arange(1, 20_001, dtype=np.uint64) * np.uint64(2654435761)
    coins = hash_uniform(derive(11, 3, 0), keys, np.zeros(1, dtype=np.int64))[:, 0] < 0.3
    assert coins.mean() == pytest.approx(0.3, abs=6 * math.sqrt(0.21 / 20_000))
    again = hash_uniform(derive(11, 4, 0), keys, np.zeros(1, dtype=np.int64))[:, 0] < 0.3
    assert (coins & again).mean() == pytest.approx(0.09, abs=6 * math.sqrt(0.09 / 20_000)), "rounds are independent"


def test_the_private_vector_is_untouched_and_stays_out():
    config = configured("model.private_user_vector=true")
    model = tiny_model(config)
    change = train(model, random_histories((4, 5)), config, noise=silent)
    assert "user_vector" not in change
