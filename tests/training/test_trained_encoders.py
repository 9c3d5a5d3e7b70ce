"""Encoders that are trained with the recommender: cohort and reference agree, gradients reach them, they learn."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tiny_models import (
    DIMENSIONS,
    ITEMS,
    histories_from,
    norm_of,
    random_histories,
    relative_error,
    tiny_config,
    tiny_model,
    work_of,
)
from tiny_plans import PLANS, adapter_of, catalogue_of, image_plan, text_plan

from mmfed.encoders.trainable.plan import TowerPlan
from mmfed.federated import wire
from mmfed.models.base import Scope, item_features
from mmfed.models.registry import RECOMMENDERS, build_recommender
from mmfed.models.scoring import ModelScorer
from mmfed.training.cohort import train_cohort
from mmfed.training.public import pretrained, public_update
from mmfed.training.record import train_user_privately
from mmfed.training.reference import train_users

LENGTHS = (0, 1, 2, 13, 7)


def configured(*more):
    return tiny_config(
        "model.history=6",
        "training.positions=4",
        "training.negatives=5",
        "training.learning_rate=0.5",
        "privacy.mode=user-central",
        "privacy.clip_norm=0.2",
        *more,
    )


def tables_of(model):
    with torch.inference_mode():
        return model.item_tables()._asdict()


def private_for(model, count, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, model.private_dimensions, generator=generator, dtype=dtype) * 0.3


def assert_parity(config, plans, *, dtype=torch.float64, tolerance=1e-10):
    model = tiny_model(config, catalogue_of(plans), dtype=dtype)
    histories = random_histories(LENGTHS)
    vectors = private_for(model, len(histories), dtype)
    expected = train_users(model, histories, vectors, work_of(config))
    found = train_cohort(model, histories, vectors, work_of(config))
    assert relative_error(found.total, expected.total) <= tolerance
    torch.testing.assert_close(found.user_vectors, expected.user_vectors, rtol=1e-4, atol=tolerance)
    if model.private_dimensions:
        moved = (found.user_vectors != vectors).any(1)
        # An adapter speaks only where there is a past: users with one event or none have no gradient for it.
        assert moved[3:].all()
        assert not moved[0]
    return model, found


@pytest.mark.parametrize(("steps", "mode"), [(s, m) for s in (1, 3) for m in ("none", "user-central")])
@pytest.mark.parametrize("plans", PLANS.values(), ids=PLANS)
def test_the_fast_path_gives_the_definitions_update(plans, steps, mode):
    config = configured(f"training.steps={steps}", f"privacy.mode={mode}")
    model, update = assert_parity(config, plans)
    towers = [name for name in update.total if name.startswith("encoders.")]
    assert bool(towers) == bool(model.encoders)
    if mode == "user-central":
        assert norm_of(update.total) <= len(LENGTHS) * config.privacy.clip_norm * (1 + 1e-12)


@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
@pytest.mark.parametrize("objective", ["default", "mse"])
def test_every_recommender(name, objective):
    config = configured(
        f"model.name={name}",
        f"training.objective={objective}",
        "training.modality_dropout=0.3",
        "model.private_user_vector=true",
    )
    model, update = assert_parity(config, PLANS["all at once"])
    never = {one for one, value in update.total.items() if one.startswith("encoders.") and not value.any()}
    unread = {"words.table", "b_hh", "bias"}  # a word that occurs nowhere; nothing a whole network hangs on
    assert all(any(part in one for part in unread) for one in never), never
    assert model.private_dimensions == DIMENSIONS + 5 * DIMENSIONS


def test_single_precision():
    assert_parity(configured(), PLANS["all at once"], dtype=torch.float32, tolerance=1e-5)


def test_weights_follow_the_seed_and_leave_the_others_alone():
    config, plans = configured(), PLANS["full image"]
    one, same, other = (build_recommender(config.model, catalogue_of(plans), seed=s).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["encoders.image.project.weight"], other["encoders.image.project.weight"])
    frozen = build_recommender(config.model, catalogue_of({"image": adapter_of("image")}), seed=3)
    plain = build_recommender(config.model, catalogue_of({}), seed=3)
    state = frozen.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    assert relative_error(tables_of(frozen), tables_of(plain)) < 1e-12, "begins as frozen"


def test_copies_and_precisions_keep_the_raw_inputs():
    model = tiny_model(configured(), catalogue_of(PLANS["all at once"]))
    assert copy.deepcopy(model).features is model.features
    assert model.features.to(torch.float32).plans == model.features.plans
    assert relative_error(tables_of(copy.deepcopy(model)), tables_of(model)) == 0.0


def test_raw_inputs_and_frozen_weights_are_neither_shared_nor_sent():
    table = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    plan = text_plan()
    settings = {**plan.settings, "vectors": table, "train_words": False}
    fixed = TowerPlan("text", "full", plan.width, inputs=plan.inputs, present=plan.present, settings=settings)
    model = tiny_model(configured(), catalogue_of({"text": fixed, "image": image_plan()}))
    assert [name for name, _ in model.named_buffers()] == ["encoders.text.words.kept"]
    assert not model.public_tensors()
    assert not wire.public_shapes(model)
    assert "encoders.text.words.kept" not in wire.shared_shapes(model)
    assert {"encoders.text.project.weight", "encoders.image.project.weight"} < set(wire.shared_shapes(model))


def test_absent_inputs_do_not_matter():
    plan = image_plan()
    noisy = torch.where(torch.from_numpy(plan.present)[:, None, None, None], plan.inputs, 255 - plan.inputs)
    other = TowerPlan("image", "full", plan.width, inputs=noisy, present=plan.present, settings=plan.settings)
    one, changed = (tiny_model(configured(), catalogue_of({"image": p})) for p in (plan, other))
    assert relative_error(tables_of(changed), tables_of(one)) < 1e-12


class Lists:
    """Histories as the scorer wants them."""

    indptr = np.array([0, 3, 3, 5])
    items = np.array([1, 2, 3, 7, 8])
    values = np.full(5, np.nan)


def scores(model, vectors, hidden=()):
    return ModelScorer(model, Lists(), user_vectors=vectors, hidden=hidden)(np.arange(3))


def test_a_private_adapter_is_private_and_personal():
    model = tiny_model(configured(), catalogue_of(PLANS["two private adapters"]))
    assert {name for name, scope in model.scopes().items() if scope is Scope.PRIVATE} == {
        "private_adapters.image",
        "private_adapters.attributes",
    }
    assert not any("private" in name for name in wire.shared_shapes(model))
    assert model.private_dimensions == (5 + 4) * DIMENSIONS
    plain, vectors = scores(model, None), private_for(model, 3).numpy()
    vectors[0] = 0.0
    own = scores(model, vectors)
    np.testing.assert_allclose(own[0], plain[0])
    np.testing.assert_allclose(own[1], plain[1], err_msg="without a history there is nothing to adapt")
    assert not np.allclose(own[2], plain[2])


def test_a_private_adapter_adds_pooled_features_times_its_matrix():
    model = tiny_model(configured("model.decays=[1.0]", "model.fusion=concat"), catalogue_of(PLANS["private adapter"]))
    vectors = private_for(model, 3).numpy()
    values, present = model.features.values[0].numpy(), model.features.present[:, :1].numpy()
    events = (values * present)[[7, 8]] * model.section.content_scale
    added = events.sum(0) / 2**0.75 @ vectors[2].reshape(5, DIMENSIONS)
    target = model.item_tables().target.detach().numpy()
    np.testing.assert_allclose(scores(model, vectors)[2] - scores(model, None)[2], target @ added, atol=1e-10)


def test_a_hidden_modality_is_hidden_from_the_private_adapter():
    model = tiny_model(configured(), catalogue_of(PLANS["private adapter"]))
    vectors = private_for(model, 3).numpy()
    np.testing.assert_allclose(scores(model, vectors, ("image",)), scores(model, None, ("image",)), atol=1e-12)


@pytest.mark.parametrize("plans", PLANS.values(), ids=PLANS)
def test_record_level_training(plans):
    config = configured("privacy.mode=record", "privacy.record_sample_rate=1.0", "privacy.record_batch=1")
    model = tiny_model(config, catalogue_of(plans))
    change = train_user_privately(
        model,
        random_histories((7,)),
        work_of(config),
        noise_multiplier=0.0,
        noise=lambda size, _: np.zeros(size),
        sample_key=1,
    )
    assert set(change) == set(model.shared_parameters())
    bound = config.privacy.clip_norm * config.training.learning_rate
    assert 0 < norm_of(change) <= bound * (1 + 1e-9)
    towers = {name: value for name, value in change.items() if name.startswith("encoders.")}
    assert bool(towers) == bool(model.encoders)
    assert not towers or norm_of(towers) > 0


@pytest.mark.parametrize("name", ["mmfnet", "dfmf"])
def test_public_training_moves_full_networks_and_leaves_adapters(name):
    config = configured(f"model.name={name}")
    plans = {"text": text_plan(), "image": adapter_of("image")}
    model = tiny_model(config, catalogue_of(plans))
    before = model.shared_parameters()
    after = pretrained(model, steps=3, seed=0)
    moved = {one for one in before if not torch.equal(after[one], before[one])}
    assert "encoders.text.project.weight" in moved
    assert not any(one.startswith("encoders.image.") for one in moved)
    update = public_update(model, before, config.training)
    assert ("encoders.image.down.weight" in update) == (name == "mmfnet")


def test_gcn_takes_its_edges_from_frozen_features_alone():
    model = tiny_model(configured("model.name=gcn"), catalogue_of({"image": image_plan(), "text": text_plan()}))
    alone = tiny_model(
        configured("model.name=gcn"), item_features({"image": (np.zeros((ITEMS, 0)), image_plan().present)}, ITEMS)
    )
    assert model.content_product.graph.indices.shape[1] > 1
    assert alone.content_product.graph.indices.shape == (ITEMS, 1)
    assert not alone.content_product.graph.weights.any()


COLD = 12  # the last items are in no training history: only their content tells


def trained_share(plans, frozen, groups):
    """How often an unseen item of the history's group is scored above one of the other group."""
    generator = np.random.default_rng(7)
    arrays = {
        **{name: (np.zeros((ITEMS, 0)), plan.present) for name, plan in plans.items()},
        **{name: (value, np.ones(ITEMS, dtype=bool)) for name, value in frozen.items()},
    }
    config = tiny_config("model.name=mf", "privacy.mode=none", "training.history_dropout=0", "training.positions=6")
    model = build_recommender(config.model, item_features(arrays, ITEMS, plans=plans), seed=1)
    warm = np.arange(ITEMS - COLD)
    lists = [generator.permutation(warm[groups[warm] == user % 2])[:7].tolist() for user in range(40)]
    histories, shared = histories_from(lists), model.shared_parameters()
    optimiser = torch.optim.Adam(shared.values(), lr=0.02)
    for round_number in range(40):
        update = train_cohort(model, histories, torch.zeros(40, 0), work_of(config, round_number=round_number))
        for name, parameter in shared.items():
            parameter.grad = (-update.total[name] / len(lists)).float()
        optimiser.step()

    class Held:
        indptr, items, values = histories.indptr, histories.items, histories.values

    found = ModelScorer(model, Held())(np.arange(40))[:, -COLD:]
    same = groups[-COLD:][None, :] == np.arange(40)[:, None] % 2
    wins = [(row[mine][:, None] > row[~mine][None, :]).mean() for row, mine in zip(found, same, strict=True)]
    return float(np.mean(wins))


def test_a_cnn_finds_what_only_the_pixels_tell():
    generator = np.random.default_rng(0)
    groups = generator.permutation(np.arange(ITEMS) % 2)
    pixels = generator.integers(0, 256, (ITEMS, 3, 16, 16))
    pixels[groups == 1, 0] = pixels[groups == 1, 0] // 2 + 128  # redder
    plan = TowerPlan(
        "image",
        "full",
        16,
        inputs=torch.from_numpy(pixels.astype(np.uint8)),
        present=np.ones(ITEMS, dtype=bool),
        settings={"width": 16},
    )
    noise = {"attributes": generator.normal(size=(ITEMS, 4))}
    assert trained_share({"image": plan}, noise, groups) > 0.9
    assert trained_share({}, noise, groups) < 0.75


def test_a_text_cnn_finds_what_only_the_order_of_words_tells():
    generator = np.random.default_rng(0)
    groups = generator.permutation(np.arange(ITEMS) % 2)
    ids = generator.integers(4, 12, (ITEMS, 6))
    for row, group in enumerate(groups):
        place = generator.integers(0, 5)
        ids[row, place : place + 2] = (2, 3) if group else (3, 2)
    bags = np.stack([(ids == word).sum(1) for word in range(12)], axis=1).astype(np.float64)
    plan = TowerPlan(
        "text",
        "full",
        16,
        inputs=torch.from_numpy(ids),
        present=np.ones(ITEMS, dtype=bool),
        settings={"width": 16, "words": 12, "dimensions": 16},
    )
    assert trained_share({"text": plan}, {"attributes": bags}, groups) > 0.9
    assert trained_share({}, {"attributes": bags}, groups) < 0.75
