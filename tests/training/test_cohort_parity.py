"""The fast path gives the update that the definition gives, user by user clipped, however it is cut into chunks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import (
    DIMENSIONS,
    ITEMS,
    histories_from,
    norm_of,
    random_histories,
    relative_error,
    tiny_config,
    tiny_features,
    tiny_model,
    toml,
    work_of,
)

from mmfed.errors import MmfedError
from mmfed.fusion.registry import FUSION_HEADS
from mmfed.models.registry import RECOMMENDERS
from mmfed.training import cohort
from mmfed.training.cohort import train_cohort
from mmfed.training.reference import train_user, train_users

LENGTHS = (0, 1, 2, 13, 7, 0, 9)  # the longest is above model.history
OBJECTIVES = ("softmax", "sampled-softmax", "bpr", "bce", "mse")
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def configured(**chosen: Any):
    values = {
        "model.fusion": "concat",
        "model.item_ids": True,
        "model.private_user_vector": False,
        "model.history": 6,
        "training.objective": "softmax",
        "training.steps": 1,
        "training.positions": 4,
        "training.negatives": 5,
        "training.learning_rate": 0.5,
        "privacy.mode": "user-central",
        "privacy.clip_norm": 0.2,
    }
    values |= chosen
    return tiny_config(*(f"{key}={toml(value)}" for key, value in values.items()))


def vectors_for(config, count, dtype, seed=5):
    scale = 0.3 if config.model.private_user_vector else 0.0
    return torch.randn(count, DIMENSIONS, generator=torch.Generator().manual_seed(seed), dtype=dtype) * scale


def assert_parity(config, histories, *, dtype=torch.float64, model=None):
    model = tiny_model(config, dtype=dtype) if model is None else model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    vectors = vectors_for(config, len(histories), dtype)
    expected = train_users(model, histories, vectors, work_of(config))
    found = train_cohort(model, histories, vectors, work_of(config))
    assert relative_error(found.total, expected.total) <= TOLERANCE[dtype]
    assert found.realised == expected.realised == len(histories)
    assert {value.dtype for value in found.total.values()} <= {torch.float64}
    if config.model.private_user_vector:
        torch.testing.assert_close(found.user_vectors, expected.user_vectors, rtol=1e-4, atol=TOLERANCE[dtype])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "the model was changed"
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("steps", "mode"), [(s, m) for s in (1, 3) for m in ("none", "user-central")])
@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_every_recommender(name, dtype, objective, steps, mode):
    histories = random_histories(LENGTHS)
    for item_ids, private in ((True, False), (False, True)):
        chosen = {"model.name": name, "model.item_ids": item_ids, "model.private_user_vector": private}
        chosen |= {"training.objective": objective, "training.steps": steps, "privacy.mode": mode}
        assert_parity(configured(**chosen), histories, dtype=dtype)


@pytest.mark.parametrize("fusion", sorted(FUSION_HEADS))
@pytest.mark.parametrize(("steps", "mode"), [(s, m) for s in (1, 3) for m in ("none", "user-central")])
def test_every_fusion_head_with_modality_dropout(fusion, steps, mode):
    chosen = {"model.name": "mf", "model.fusion": fusion, "training.modality_dropout": 0.4}
    config = configured(**chosen, **{"training.steps": steps, "privacy.mode": mode})
    assert_parity(config, random_histories(LENGTHS))


@pytest.mark.parametrize("sampling", ["popularity", "hard"])
@pytest.mark.parametrize("objective", ["sampled-softmax", "bpr", "bce"])
@pytest.mark.parametrize(("steps", "mode"), [(1, "none"), (1, "user-central"), (3, "user-central")])
def test_every_kind_of_negative(sampling, objective, steps, mode):
    chosen = {"training.negative_sampling": sampling, "training.objective": objective}
    assert_parity(configured(**chosen, **{"training.steps": steps, "privacy.mode": mode}), random_histories(LENGTHS))


@pytest.mark.parametrize("objective", ["softmax", "bpr", "mse"])
@pytest.mark.parametrize(("steps", "mode"), [(1, "none"), (1, "user-central"), (3, "user-central")])
def test_where_order_is_not_time(objective, steps, mode):
    chosen = {"training.context": "others", "training.objective": objective}
    assert_parity(configured(**chosen, **{"training.steps": steps, "privacy.mode": mode}), random_histories(LENGTHS))


@pytest.mark.parametrize(("steps", "mode"), [(1, "none"), (1, "user-central"), (3, "user-central")])
def test_cosine_similarity(steps, mode):
    config = configured(**{"model.similarity": "cosine", "training.steps": steps, "privacy.mode": mode})
    assert_parity(config, random_histories(LENGTHS))


@pytest.mark.parametrize("name", ["mf", "dfmf", "gcn", "mmfnet"])
@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("amount", [{"training.steps": 3}, {"training.epochs": 2}, {"training.epochs": 1}], ids=str)
def test_every_local_optimiser(name, optimiser, amount):
    """The lengths need 1, 2 and 4 batches of four positions, so users stop after different numbers of steps."""
    for objective, mode, private in (("bce", "user-central", False), ("softmax", "none", True)):
        chosen = {"model.name": name, "training.optimiser": optimiser, "training.objective": objective}
        chosen |= {"privacy.mode": mode, "model.private_user_vector": private, "training.learning_rate": 0.05}
        assert_parity(configured(**chosen, **amount), random_histories(LENGTHS))


@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
@pytest.mark.parametrize("objective", ["softmax", "bce"])
@pytest.mark.parametrize("amount", [{"training.steps": 1}, {"training.epochs": 1}], ids=str)
def test_a_user_who_is_a_vector_alone(name, objective, amount):
    for mode in ("none", "user-central"):
        chosen = {"model.name": name, "model.history": 0, "model.private_user_vector": True, "privacy.mode": mode}
        config = configured(**chosen, **{"training.objective": objective}, **amount)
        assert_parity(config, random_histories(LENGTHS))
        shared = tiny_model(config).shared_parameters()
        assert not any(key.startswith(("history", "pooling")) for key in shared), "nothing reads the history"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("clip", [1e-3, 0.2, 1e3])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("modalities", [{}, {"text": 3, "image": 5}], ids=["ids", "content"])
@pytest.mark.parametrize("name", ["mf", "gcn"])
def test_linear_towers_take_their_norms_from_gram_matrices(name, dtype, clip, dropout, modalities):
    chosen = {"model.name": name, "privacy.clip_norm": clip, "training.modality_dropout": dropout}
    config = configured(**chosen, **{"model.private_user_vector": True, "model.bias_scale": 3.0})
    model = tiny_model(config, tiny_features(ITEMS, widths=modalities), dtype=dtype)
    assert model.linear_tables(model.present(None)) is not None, "this test must take that path"
    histories = histories_from([[0, 0, 1, 1, 0], [5, 6, 7], [], [3], list(range(12)) * 2])
    assert_parity(config, histories, model=model, dtype=dtype)


@settings(max_examples=25, deadline=None)
@given(
    lists=st.lists(st.lists(st.integers(0, 11), max_size=12), min_size=1, max_size=5),
    objective=st.sampled_from(OBJECTIVES),
    steps=st.sampled_from([1, 2]),
    clipped=st.booleans(),
)
def test_any_histories(lists, objective, steps, clipped):
    # Twelve items only: repetitions, and users who have seen the whole catalogue, are common.
    chosen = {"training.objective": objective, "training.steps": steps, "training.positions": 3}
    config = configured(**chosen, **{"privacy.mode": "user-central" if clipped else "none"})
    model = tiny_model(config, tiny_features(12))
    update = assert_parity(config, histories_from(lists), model=model)
    if clipped:
        assert norm_of(update.total) <= len(lists) * config.privacy.clip_norm * (1 + 1e-12)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_user_who_has_seen_everything(objective, steps):
    config = configured(**{"training.objective": objective, "training.steps": steps, "training.history_dropout": 0})
    model = tiny_model(config, tiny_features(3))
    histories = histories_from([[0, 1, 2, 0, 1, 2, 2], [0, 1, 2], [1]])
    assert_parity(config, histories, model=model)
    for mode in ("none", "user-central"):
        assert_parity(configured(**{"training.objective": objective, "privacy.mode": mode}), histories, model=model)


@pytest.mark.parametrize("modalities", [{}, {"text": 3}], ids=["none", "one"])
@pytest.mark.parametrize("fusion", ["concat", "attention"])
@pytest.mark.parametrize("steps", [1, 2])
def test_few_modalities(fusion, modalities, steps):
    config = configured(**{"model.fusion": fusion, "training.steps": steps})
    model = tiny_model(config, tiny_features(ITEMS, widths=modalities))
    assert_parity(config, random_histories(LENGTHS), model=model)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(("steps", "mode"), [(1, "none"), (1, "user-central"), (2, "user-central")])
def test_chunks_do_not_matter(monkeypatch, size, steps, mode):
    for name in ("SUMMED_CHUNK", "LINEAR_CHUNK", "ONE_STEP_CHUNK", "WHOLE_CHUNK", "WHOLE_STEPS_CHUNK", "ROWS_CHUNK"):
        monkeypatch.setattr(cohort, name, size)
    config = configured(**{"training.steps": steps, "privacy.mode": mode, "model.private_user_vector": True})
    assert_parity(config, random_histories(LENGTHS))


def test_no_users_and_users_without_history():
    for steps, mode in itertools.product((1, 2), ("none", "user-central")):
        config = configured(**{"training.steps": steps, "privacy.mode": mode})
        for lists in ([], [[]], [[], []]):
            update = assert_parity(config, histories_from(lists))
            assert norm_of(update.total) == 0.0


@pytest.mark.parametrize("steps", [1, 2])
def test_every_contribution_is_bounded(steps):
    config = configured(**{"training.steps": steps, "training.learning_rate": 1e4, "privacy.clip_norm": 0.05})
    model = tiny_model(config)
    histories = random_histories(LENGTHS)
    for user in range(len(histories)):
        alone = train_cohort(
            model, histories.take(np.array([user])), torch.zeros(1, DIMENSIONS).double(), work_of(config)
        )
        bound = config.privacy.clip_norm
        assert norm_of(alone.total) <= bound * (1 + 1e-9)
        if histories.lengths[user] > 0:
            assert norm_of(alone.total) == pytest.approx(bound, rel=1e-9), "a huge update is scaled, not dropped"


@pytest.mark.parametrize("name", ["mf", "gcn"])
@pytest.mark.parametrize("seed", range(8))
def test_norms_from_gram_matrices_bound_a_contribution_in_float32(name, seed):
    """Whatever the scale of weights and biases and however long the history: cancellation must not loosen the clip."""
    generator = np.random.default_rng(seed)
    chosen = {"model.name": name, "privacy.clip_norm": 0.05, "training.history_dropout": 0}
    chosen |= {"training.positions": int(generator.integers(1, 40)), "training.learning_rate": 100.0}
    config = configured(**chosen, **{"model.bias_scale": float(10 ** generator.uniform(-1, 1.5))})
    model = tiny_model(config, dtype=torch.float32, seed=seed)
    assert model.linear_tables(model.present(None)) is not None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= float(10 ** generator.uniform(-1, 1))
    items = generator.integers(0, int(generator.integers(2, ITEMS)), int(generator.integers(2, 300))).tolist()
    update = train_cohort(model, histories_from([items]), torch.zeros(1, 0), work_of(config))
    assert norm_of(update.total) == pytest.approx(0.05, rel=1e-6)


def test_a_small_update_is_not_scaled_up():
    config = configured(**{"privacy.clip_norm": 1e3})
    free = configured(**{"privacy.mode": "none"})
    histories, vectors = random_histories(LENGTHS), torch.zeros(len(LENGTHS), DIMENSIONS).double()
    model = tiny_model(config)
    clipped = train_cohort(model, histories, vectors, work_of(config)).total
    assert relative_error(clipped, train_cohort(model, histories, vectors, work_of(free)).total) < 1e-12


def test_an_adversarial_user_among_others_adds_at_most_the_clip_norm():
    config = configured(**{"training.learning_rate": 50.0})
    model = tiny_model(config, dtype=torch.float32)
    honest = random_histories((5, 8, 3))
    everyone = histories_from([*[honest.take(np.array([u])).items.tolist() for u in range(3)], [7] * 200])
    everyone = type(everyone)(np.append(honest.keys, np.uint64(666)), everyone.indptr, everyone.items)
    one = train_cohort(model, honest, torch.zeros(3, DIMENSIONS), work_of(config)).total
    other = train_cohort(model, everyone, torch.zeros(4, DIMENSIONS), work_of(config)).total
    difference = norm_of({name: other[name] - one[name] for name in one})
    assert 0 < difference <= config.privacy.clip_norm * (1 + 1e-5)


def test_a_user_alone_and_in_a_cohort_draws_the_same():
    config = configured(**{"training.objective": "bpr", "training.history_dropout": 0.5, "privacy.mode": "none"})
    model = tiny_model(config)
    histories = random_histories((4, 12, 30))
    together = train_cohort(model, histories, torch.zeros(3, DIMENSIONS).double(), work_of(config)).total
    alone = [
        train_user(model, histories.take(np.array([u])), torch.zeros(DIMENSIONS).double(), work_of(config))[0]
        for u in range(3)
    ]
    summed = {name: sum(one[name] for one in alone) for name in together}
    assert relative_error(together, summed) < 1e-10


def test_rounds_and_seeds_differ():
    config = configured(**{"privacy.mode": "none"})
    model, histories = tiny_model(config), random_histories((12, 12))
    vectors = torch.zeros(2, DIMENSIONS).double()

    def update(seed, round_number):
        return train_cohort(model, histories, vectors, work_of(config, seed=seed, round_number=round_number)).total

    assert relative_error(update(1, 1), update(1, 1)) == 0.0
    assert relative_error(update(1, 2), update(1, 1)) > 1e-3
    assert relative_error(update(2, 1), update(1, 1)) > 1e-3


def test_a_parameter_the_loss_never_reads_does_not_stop_a_clipped_round():
    config = configured(**{"model.name": "mmfnet", "training.action_weight": 0.0})
    update = assert_parity(config, random_histories(LENGTHS))
    assert not update.total["action_weight"].any()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("item_ids", [False, True])
def test_attention_over_items_that_lack_everything(item_ids, dropout):
    chosen = {"model.name": "mmfnet", "model.fusion": "default", "model.item_ids": item_ids}
    config = configured(**chosen, **{"training.modality_dropout": dropout})
    model = tiny_model(config, tiny_features(missing=0.6))
    update = assert_parity(config, random_histories(LENGTHS), model=model)
    assert bool(update.total["target_head.missing"].any()) == (not item_ids or dropout > 0)


def test_attention_whose_weights_vanish():
    """Where no modality of an item has a weight left, the sum of weights is a constant, for both alike.

    Logits in the thousands leave exponentials of ten digits, so this is no comparison to the last one.
    """
    chosen = {"model.name": "mmfnet", "model.fusion": "default", "model.item_ids": False}
    config, histories = configured(**chosen, **{"training.learning_rate": 1e-3}), random_histories(LENGTHS)
    model = tiny_model(config, tiny_features(missing=0.6))
    with torch.no_grad():
        model.shared_parameters()["target_head.user_query"].mul_(8e3)
    vectors = torch.zeros(len(histories), 0).double()
    expected = train_users(model, histories, vectors, work_of(config))
    found = train_cohort(model, histories, vectors, work_of(config))
    assert relative_error(found.total, expected.total) <= 1e-8


@pytest.mark.parametrize("sampling", ["uniform", "popularity", "hard"])
@pytest.mark.parametrize("objective", ["sampled-softmax", "bpr", "bce"])
@pytest.mark.parametrize("clip", [1e-3, 0.2, 1e3])
def test_a_hidden_layer_of_every_candidate(sampling, objective, clip):
    chosen = {"model.name": "mmcnn", "training.objective": objective, "training.negative_sampling": sampling}
    config = configured(**chosen, **{"privacy.clip_norm": clip, "model.private_user_vector": True})
    assert_parity(config, random_histories(LENGTHS))


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("objective", ["softmax", "bce"])
@pytest.mark.parametrize("amount", [{"training.steps": 1}, {"training.epochs": 1}], ids=str)
def test_every_task_is_bounded_before_the_whole_update_is(optimiser, objective, amount):
    histories = with_actions(random_histories(LENGTHS))
    chosen = {"model.name": "mmfnet", "training.action_weight": 5.0, "privacy.task_clip_norm": 0.05}
    chosen |= {"training.optimiser": optimiser, "training.objective": objective, "model.private_user_vector": True}
    assert_parity(configured(**chosen, **amount), histories)
    assert_parity(configured(**chosen, **amount, **{"privacy.clip_norm": 1e3}), histories)


def test_a_bound_on_tasks_keeps_the_strong_one_from_crowding_out_the_weak():
    """One user, one step: the update is the sum of two parts, each no longer than its own bound."""
    histories, bound = with_actions(random_histories((9,))), 1e-3
    settings = {"model.name": "mmfnet", "training.action_weight": 50.0, "privacy.clip_norm": 1e3}
    model = tiny_model(configured(**settings))

    def update(**changed):
        work = work_of(configured(**settings | changed))
        return train_cohort(model, histories, torch.zeros(1, 0).double(), work).total

    parts = update(**{"privacy.task_clip_norm": bound})
    preference = update(**{"training.action_weight": 0.0})
    action = {name: value - preference[name] for name, value in update().items()}
    assert min(norm_of(preference), norm_of(action)) > bound, "both are above it, or this shows nothing"
    expected = {
        name: preference[name] * (bound / norm_of(preference)) + action[name] * (bound / norm_of(action))
        for name in parts
    }
    assert relative_error(parts, expected) < 1e-9


def test_a_bound_on_tasks_needs_several():
    for chosen in (
        {"model.name": "mf"},
        {"model.name": "mmfnet", "training.action_weight": 0.0},
        {"model.name": "gcn"},
    ):
        config = configured(**chosen, **{"privacy.task_clip_norm": 0.1})
        for train in (train_cohort, train_users):
            with pytest.raises(MmfedError, match="task_clip_norm"):
                train(tiny_model(config), random_histories((3,)), torch.zeros(1, 0).double(), work_of(config))
    with pytest.raises(MmfedError, match="user-central"):
        configured(**{"privacy.mode": "none", "privacy.task_clip_norm": 0.1})


def with_actions(histories):
    actions = np.arange(len(histories.items)) % 3
    return type(histories)(histories.keys, histories.indptr, histories.items, histories.values, actions)


@pytest.mark.parametrize("name", ["mf", "dfmf", "mmfnet"])
@pytest.mark.parametrize("amount", [{"training.steps": 1}, {"training.steps": 3}, {"training.epochs": 1}], ids=str)
def test_few_people_and_a_large_catalogue(name, amount):
    """Fewer rows are read than there are items: projections are computed as they are read."""
    config = configured(**{"model.name": name, "training.objective": "bce", "model.content_scale": 0.7}, **amount)
    items = 400
    model = tiny_model(config, tiny_features(items))
    histories = histories_from([[3, 399, 7, 7, 120], [5, 6], []])
    assert len(histories) * config.training.positions * (1 + config.training.negatives) < items
    assert_parity(config, histories, model=model)
