"""What people say about themselves in training: fast paths give the update of the definition, nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import (
    histories_from,
    norm_of,
    random_histories,
    relative_error,
    tiny_config,
    tiny_model,
    toml,
    with_own_content,
    work_of,
)
from tiny_plans import adapter_of, catalogue_of

from mmfed.fusion.registry import FUSION_HEADS
from mmfed.models.registry import RECOMMENDERS
from mmfed.training import cohort
from mmfed.training.batch import Histories
from mmfed.training.cohort import train_cohort
from mmfed.training.reference import train_users

LENGTHS = (0, 1, 2, 13, 7, 0, 9)
# Two attributes of 3 and 4 answers. Users 1, 2 and 4 share answers, 3 gives one answer only, 5 and 6 none.
ANSWERS = 7
PEOPLE = np.array([[0, 3], [1, 4], [1, 4], [-1, 5], [1, 6], [-1, -1], [-1, -1]])
PATHS = ((1, "none"), (1, "user-central"), (3, "user-central"))
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("sampled-softmax", "bce")]
OBJECTIVES = ("softmax", "bpr", "mse", *SLOW)


def configured(**chosen: object):
    values = {
        "model.history": 6,
        "training.positions": 4,
        "training.negatives": 5,
        "training.learning_rate": 0.5,
        "privacy.clip_norm": 0.2,
    }
    return tiny_config(*(f"{key}={toml(value)}" for key, value in {**values, **chosen}.items()))


def told(histories: Histories, people: np.ndarray = PEOPLE) -> Histories:
    return replace(histories, people=people)


def both(config, histories: Histories, model, *, exact: float = 1e-10):
    generator = torch.Generator().manual_seed(5)
    shape = (len(histories), model.private_dimensions)
    vectors = torch.randn(shape, generator=generator, dtype=torch.float64).to(next(model.parameters()).dtype) * 0.3
    expected = train_users(model, histories, vectors, work_of(config))
    found = train_cohort(model, histories, vectors, work_of(config))
    assert relative_error(found.total, expected.total) <= exact
    torch.testing.assert_close(found.user_vectors, expected.user_vectors, rtol=1e-4, atol=exact)
    return found.total


def moved(update) -> list[int]:
    """The answers whose row is not left as it was."""
    return torch.nonzero(update["person_rows"].abs().sum(1) > 0).flatten().tolist()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("steps", "mode"), PATHS)
@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_every_recommender(name, steps, mode, objective):
    chosen = {"model.name": name, "training.objective": objective}
    config = configured(**chosen, **{"training.steps": steps, "privacy.mode": mode})
    histories, model = random_histories(LENGTHS), tiny_model(config, answers=ANSWERS)
    found = both(config, told(histories), model)
    # User 0 said 0 and 3 and did nothing; nobody said 2.
    assert moved(found) == [1, 4, 5, 6]
    without = train_cohort(model, histories, torch.zeros(7, 0).double(), work_of(config)).total
    assert relative_error(found, without) > 1e-3, "the answers took part"


@pytest.mark.parametrize(("steps", "mode"), PATHS)
@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_in_single_precision(name, steps, mode):
    config = configured(**{"model.name": name, "training.steps": steps, "privacy.mode": mode})
    model = tiny_model(config, dtype=torch.float32, answers=ANSWERS)
    both(config, told(random_histories(LENGTHS)), model, exact=1e-5)


@pytest.mark.parametrize("fusion", sorted(FUSION_HEADS))
@pytest.mark.parametrize(("steps", "mode"), PATHS)
def test_every_fusion_head_with_dropout(fusion, steps, mode):
    chosen = {"model.name": "mf", "model.fusion": fusion, "training.modality_dropout": 0.4}
    config = configured(**chosen, **{"training.steps": steps, "privacy.mode": mode})
    both(config, told(random_histories(LENGTHS)), tiny_model(config, answers=ANSWERS))


@pytest.mark.parametrize(
    "more",
    [
        {"model.private_user_vector": True},
        {"model.private_user_vector": True, "model.history": 0},
        {"model.private_user_vector": True, "model.history": 0, "model.similarity": "cosine"},
        {"model.similarity": "cosine"},
        {"training.optimiser": "momentum"},
        {"training.optimiser": "adam"},
        {"training.epochs": 2},
        {"training.context": "others"},
        {"training.negative_sampling": "hard", "training.objective": "bpr"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("steps", "mode"), PATHS)
def test_private_vectors_cosine_and_local_optimisers(steps, mode, more):
    for name in ("mf", "gcn"):
        config = configured(**{"model.name": name, "training.steps": steps, "privacy.mode": mode, **more})
        found = both(config, told(random_histories(LENGTHS)), tiny_model(config, answers=ANSWERS))
        assert moved(found) == [1, 4, 5, 6]


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize(("steps", "mode"), PATHS)
def test_chunks_do_not_matter(monkeypatch, size, steps, mode):
    for name in ("SUMMED_CHUNK", "LINEAR_CHUNK", "WHOLE_CHUNK", "WHOLE_STEPS_CHUNK", "ROWS_CHUNK"):
        monkeypatch.setattr(cohort, name, size)
    for name in ("mf", "gcn"):
        config = configured(**{"model.name": name, "training.steps": steps, "privacy.mode": mode})
        both(config, told(random_histories(LENGTHS)), tiny_model(config, answers=ANSWERS))


@pytest.mark.parametrize(("steps", "mode"), PATHS)
@pytest.mark.parametrize("name", ["mf", "dfmf"])
def test_beside_own_content_and_adapters(name, steps, mode):
    config = configured(**{"model.name": name, "training.steps": steps, "privacy.mode": mode})
    for scope in ("shared", "private"):
        model = tiny_model(config, catalogue_of({"text": adapter_of("text", scope=scope)}), answers=ANSWERS)
        own = with_own_content(random_histories(LENGTHS), model.features, (2, 0, 3, 5, 0, 0, 30))
        both(config, told(own), model)


@pytest.mark.parametrize("clip", [1e-3, 1e3])
@pytest.mark.parametrize("name", ["mf", "gcn", "dfmf"])
def test_an_update_is_clipped_as_a_whole_also_where_two_people_share_an_answer(name, clip):
    """Each person's row counts in that person's own norm: a norm of the summed row would clip them too much."""
    config = configured(**{"model.name": name, "privacy.mode": "user-central", "privacy.clip_norm": clip})
    model, people = tiny_model(config, answers=ANSWERS), np.array([[1, 4], [1, 4]])
    histories = histories_from([[3, 4, 5, 9], [8, 4, 7, 1]])
    found = both(config, told(histories, people), model)
    work, vectors = work_of(config), torch.zeros(1, 0).double()
    alone = [train_cohort(model, told(histories, people).take(np.array([u])), vectors, work).total for u in (0, 1)]
    for one in alone:
        assert norm_of(one) == pytest.approx(clip) if clip < 1 else norm_of(one) < clip
        assert one["person_rows"].norm() > 0
    summed = {name: alone[0][name] + alone[1][name] for name in found}
    assert relative_error(found, summed) <= 1e-10


@pytest.mark.parametrize(("steps", "mode"), PATHS)
@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_who_says_nothing_trains_as_if_nobody_had_been_asked(name, steps, mode):
    config = configured(**{"model.name": name, "training.steps": steps, "privacy.mode": mode})
    histories, model = random_histories(LENGTHS), tiny_model(config, answers=ANSWERS)
    with torch.no_grad():
        model.get_parameter("person_rows").zero_()
    silent = both(config, told(histories, np.full_like(PEOPLE, -1)), model)
    unasked = train_cohort(model, histories, torch.zeros(7, 0).double(), work_of(config)).total
    assert moved(silent) == []
    assert relative_error(silent, unasked) == 0
    plain = tiny_model(config)
    assert "person_rows" not in plain.shared_parameters()
    with torch.no_grad():
        for key, value in plain.named_parameters():
            value.copy_(model.get_parameter(key))
    unmodelled = train_cohort(plain, histories, torch.zeros(7, 0).double(), work_of(config)).total
    del unasked["person_rows"]
    assert relative_error(unasked, unmodelled) == 0
