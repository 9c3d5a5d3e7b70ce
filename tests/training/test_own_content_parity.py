"""Own content among the events: the fast paths still give the update of the definition, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import (
    ITEMS,
    histories_from,
    norm_of,
    random_histories,
    relative_error,
    tiny_features,
    tiny_model,
    toml,
    with_own_content,
    work_of,
)
from tiny_models import tiny_config as plain_config
from tiny_plans import adapter_of, catalogue_of, image_plan

from mmfed.fusion.registry import FUSION_HEADS
from mmfed.models.base import OwnEvents
from mmfed.models.registry import RECOMMENDERS
from mmfed.training import cohort
from mmfed.training.batch import NEVER, Histories, training_batch
from mmfed.training.cohort import train_cohort
from mmfed.training.reference import train_users

LENGTHS, COUNTS = (0, 1, 2, 13, 7, 0, 9), (2, 0, 3, 5, 0, 0, 30)
PATHS = ((1, "none"), (1, "user-central"), (3, "user-central"))


def configured(**chosen: object):
    values = {
        "model.history": 6,
        "training.positions": 4,
        "training.negatives": 5,
        "training.learning_rate": 0.5,
        "privacy.clip_norm": 0.2,
    }
    return plain_config(*(f"{key}={toml(value)}" for key, value in {**values, **chosen}.items()))


def both(config, histories: Histories, model):
    vectors = torch.zeros(len(histories), model.private_dimensions).double()
    expected = train_users(model, histories, vectors, work_of(config)).total
    found = train_cohort(model, histories, vectors, work_of(config)).total
    assert relative_error(found, expected) <= 1e-10
    return found


@pytest.mark.parametrize("objective", ["softmax", "bpr"])
@pytest.mark.parametrize(("steps", "mode"), PATHS)
@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_every_recommender(name, steps, mode, objective):
    for item_ids in (True, False):
        chosen = {"model.name": name, "model.item_ids": item_ids, "training.objective": objective}
        config = configured(**chosen, **{"training.steps": steps, "privacy.mode": mode})
        histories, model = random_histories(LENGTHS), tiny_model(config)
        own = with_own_content(histories, model.features, COUNTS)
        found = both(config, own, model)
        without = train_cohort(model, histories, torch.zeros(7, 0).double(), work_of(config)).total
        assert relative_error(found, without) > 1e-3, "own content took part"


@pytest.mark.parametrize("fusion", sorted(FUSION_HEADS))
@pytest.mark.parametrize(("steps", "mode"), PATHS)
def test_every_fusion_head_with_dropout(fusion, steps, mode):
    chosen = {"model.name": "mf", "model.fusion": fusion, "training.modality_dropout": 0.4}
    config = configured(**chosen, **{"training.steps": steps, "privacy.mode": mode})
    model = tiny_model(config)
    both(config, with_own_content(random_histories(LENGTHS), model.features, COUNTS), model)


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize(("steps", "mode"), PATHS)
def test_chunks_do_not_matter(monkeypatch, size, steps, mode):
    """Also where a whole chunk of people has none, the first one above all."""
    for name in ("SUMMED_CHUNK", "LINEAR_CHUNK", "ONE_STEP_CHUNK", "WHOLE_CHUNK", "WHOLE_STEPS_CHUNK", "ROWS_CHUNK"):
        monkeypatch.setattr(cohort, name, size)
    config = configured(**{"training.steps": steps, "privacy.mode": mode, "model.private_user_vector": True})
    model = tiny_model(config)
    both(config, with_own_content(random_histories(LENGTHS), model.features, COUNTS), model)


@pytest.mark.parametrize("mode", ["none", "user-central"])
def test_content_after_the_last_item_or_without_any_item_teaches_nothing(mode):
    config = configured(**{"model.name": "dfmf", "privacy.mode": mode, "training.history_dropout": 0.0})
    model, vectors = tiny_model(config), torch.zeros(2, 0).double()
    plain = histories_from([[3, 4, 5], []])
    own = with_own_content(plain, model.features, [2, 3])
    own = Histories(  # both pieces of the first person's content after the items
        own.keys,
        own.indptr,
        np.array([3, 4, 5, -1, -1, -1, -1, -1]),
        None,
        None,
        np.array([-1, -1, -1, 0, 1, 2, 3, 4]),
        own.features,
    )
    chosen = {"training.positions": 30}
    config = configured(**{"model.name": "dfmf", "privacy.mode": mode, "training.history_dropout": 0.0, **chosen})
    expected = train_cohort(model, Histories(plain.keys, plain.indptr, plain.items), vectors, work_of(config)).total
    assert norm_of(expected) > 0
    assert relative_error(both(config, own, model), expected) < 1e-12


def test_content_is_never_a_target_and_never_counts_as_seen():
    config = configured(**{"training.positions": 30, "training.objective": "softmax"})
    model = tiny_model(config)
    own = with_own_content(random_histories(LENGTHS), model.features, COUNTS)
    batch = training_batch(
        own,
        model=model,
        section=config.training,
        seed=1,
        round_number=1,
        step=0,
        user_vectors=torch.zeros(len(own), 0),
        dtype=torch.float64,
    )
    assert isinstance(batch.histories.own, OwnEvents)
    valid = batch.weights > 0
    assert valid.sum(1).tolist() == list(LENGTHS), "every interaction is a target, and nothing else"
    for user in range(len(own)):
        events = own.items[own.indptr[user] : own.indptr[user + 1]]
        assert (events[batch.histories.positions[user][valid[user]].numpy()] >= 0).all()
        seen = np.flatnonzero(batch.first_seen[user].numpy() < NEVER)
        assert set(seen) == set(events[events >= 0].tolist())
        slots = batch.histories.own.slots[user][batch.histories.own.known[user] > 0]
        assert slots.tolist() == np.flatnonzero(events < 0).tolist()


@pytest.mark.parametrize("item_ids", [True, False])
@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_words_of_an_item_move_the_state_as_the_item_without_its_id_would(name, item_ids):
    """Item 7 and own content in its very words; without layers a graph has nothing to add to an item."""
    chosen = {"model.name": name, "model.item_ids": item_ids, "model.layers": 0, "training.history_dropout": 0.0}
    config = configured(**chosen, **{"model.history": 200})
    model = tiny_model(config, tiny_features(widths={"text": 3}, missing=0.0))
    told = with_own_content(histories_from([[3, 4]]), model.features, [1], missing=0.0)
    assert told.features is not None
    told.features.modalities["text"].values[:] = model.features.values[0][7].numpy()
    rows = np.array([0, -1, -1])
    told = Histories(told.keys, np.array([0, 3]), np.array([-1, 3, 4]), None, None, rows, told.features)
    touched = Histories(told.keys, np.array([0, 3]), np.array([7, 3, 4]))
    mask = torch.ones(ITEMS, model.modality_columns, dtype=torch.float64)
    mask[7, 1:] = 0
    history = model.item_tables(mask).history

    def states(histories: Histories) -> torch.Tensor:
        batch = training_batch(
            histories,
            model=model,
            section=config.training,
            seed=1,
            round_number=1,
            step=0,
            user_vectors=torch.zeros(1, 0),
            dtype=torch.float64,
        ).histories
        batch = batch._replace(positions=torch.tensor([[1, 2, 3]]), others=torch.zeros(1, 3).double())
        return model.user_states(history[batch.items], batch)

    assert states(told).abs().sum() > 0
    torch.testing.assert_close(states(told), states(touched), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("steps", "mode"), PATHS)
@pytest.mark.parametrize("scope", ["shared", "private"])
@pytest.mark.parametrize("name", ["mf", "dfmf"])
def test_adapters_read_own_content_too(name, scope, steps, mode):
    config = configured(**{"model.name": name, "training.steps": steps, "privacy.mode": mode})
    plans = {"text": adapter_of("text", scope=scope)}
    model = tiny_model(config, catalogue_of(plans))
    histories = random_histories(LENGTHS)
    own = with_own_content(histories, model.features, COUNTS)
    generator = torch.Generator().manual_seed(5)
    vectors = torch.randn(len(own), model.private_dimensions, generator=generator, dtype=torch.float64) * 0.3
    expected = train_users(model, own, vectors, work_of(config))
    found = train_cohort(model, own, vectors, work_of(config))
    assert relative_error(found.total, expected.total) <= 1e-10
    torch.testing.assert_close(found.user_vectors, expected.user_vectors, rtol=1e-4, atol=1e-10)
    without = train_cohort(model, histories, vectors, work_of(config))
    assert relative_error(found.total, without.total) > 1e-3
    if scope == "private":
        assert (found.user_vectors[3] != without.user_vectors[3]).any()


@pytest.mark.parametrize(("steps", "mode"), PATHS)
def test_queries_beside_pictures_that_are_learned_from_pixels(steps, mode):
    """Own content has no pixels here: nothing of the picture network may run on it."""
    config = configured(**{"model.name": "dfmf", "training.steps": steps, "privacy.mode": mode})
    model = tiny_model(config, catalogue_of({"image": image_plan()}))
    both(config, with_own_content(random_histories(LENGTHS), model.features, COUNTS, names=["text"]), model)
