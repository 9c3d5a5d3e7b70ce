"""Band-EASE as a teacher: what the model says after lessons, told by code of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import DIMENSIONS, ITEMS, histories_from, relative_error, tiny_config, tiny_features, tiny_model

from mmfed.models.band_ease import BandEase
from mmfed.models.base import HistoryBatch, Recommender
from mmfed.training.cooccurrence import banded_cooccurrence
from mmfed.training.teacher import SHARPNESS, taught

GROUPS = 4  # item i belongs to group i % 4; people stay in a group


def shoppers(items: int = ITEMS, *, users: int = 80, known: int | None = None) -> list[list[int]]:
    generator = np.random.default_rng(0)
    lists = []
    for user in range(users):
        own = np.arange(user % GROUPS, known or items, GROUPS)
        lists.append(generator.permutation(own)[:6].tolist())
    return lists


def teacher_of(lists: list[list[int]], items: int = ITEMS, *, history_decay: float = 0.9) -> BandEase:
    gram = banded_cooccurrence(histories_from(lists), items, decay=0.9)
    return BandEase(gram, ridge=0.5, history_decay=history_decay)


def model_of(name: str = "mf", *more: str, items: int = ITEMS) -> Recommender:
    features = tiny_features(items, widths={"image": 5, "attributes": 4})
    return tiny_model(tiny_config(f"model.name={name}", *more), features, dtype=torch.float32)


def start_of(model: Recommender) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.shared_parameters().items()}


def scores_of(model: Recommender, parameters: dict[str, torch.Tensor], history: list[int]) -> np.ndarray:
    """[items] after a history, by the model's own forward."""
    local = model_of(model.section.name, items=model.item_count)  # type: ignore[union-attr]
    with torch.no_grad():
        for name, value in local.shared_parameters().items():
            value.copy_(parameters[name])
        ones = torch.ones(1, len(history))
        batch = HistoryBatch(
            items=torch.tensor([history]),
            known=ones,
            kept=ones,
            positions=torch.tensor([[len(history)]]),
            others=torch.zeros(1, 1),
            user_vectors=torch.zeros(1, local.private_dimensions),
            ratings=ones,
        )
        return local(batch)[0, 0].double().numpy()


def distance(model: Recommender, parameters: dict[str, torch.Tensor], teacher: BandEase, lists) -> float:
    """Mean Kullback-Leibler divergence, teacher to model, over the items outside each history; nats."""
    found = []
    for history in lists:
        weights = [teacher.history_decay ** (len(history) - 1 - place) for place in range(len(history))]
        own = sum(weight * teacher.weights[item] for weight, item in zip(weights, history, strict=True))
        lesson = (own - own.mean()) / own.std() * SHARPNESS
        open_items = np.setdiff1d(np.arange(len(own)), history)
        told = np.exp(lesson[open_items]) / np.exp(lesson[open_items]).sum()
        said = scores_of(model, parameters, history)[open_items]
        logged = said - said.max() - np.log(np.exp(said - said.max()).sum())
        found.append(float((told * (np.log(told) - logged)).sum()))
    return float(np.mean(found))


def histories(*, lengths: tuple[int, ...] = (1, 2, 4), seed: int = 9) -> list[list[int]]:
    """Histories nobody had: half of them stay in a group, half do not."""
    generator = np.random.default_rng(seed)
    inside = [generator.permutation(np.arange(g, ITEMS, GROUPS))[:n].tolist() for g in range(GROUPS) for n in lengths]
    return inside + [generator.permutation(ITEMS)[:n].tolist() for _ in range(GROUPS) for n in lengths]


@pytest.mark.parametrize("name", ["mf", "gcn", "mmfnet"])
def test_the_model_comes_to_say_what_the_teacher_says(name: str) -> None:
    model, teacher = model_of(name), teacher_of(shoppers())
    start = start_of(model)
    learned = taught(model, start, teacher, steps=250, seed=1)
    before, after = (distance(model, one, teacher, histories()) for one in (start, learned))
    assert after < 0.6 * before


def test_a_group_is_recommended_to_who_is_in_it() -> None:
    model, teacher = model_of(), teacher_of(shoppers())
    start = start_of(model)
    learned = taught(model, start, teacher, steps=250, seed=1)

    def right(parameters: dict[str, torch.Tensor]) -> float:
        hits = []
        for item in range(ITEMS):
            said = scores_of(model, parameters, [item])
            said[item] = -np.inf
            hits.append(np.mean(np.argsort(-said)[:5] % GROUPS == item % GROUPS))
        return float(np.mean(hits))

    assert right(start) < 0.5
    assert right(learned) > 0.8


def test_recency_is_taught_as_the_teacher_has_it() -> None:
    """A teacher who forgets at once is told apart from one who forgets nothing."""
    short, long = (teacher_of(shoppers(), history_decay=decay) for decay in (0.1, 1.0))
    model = model_of()
    learned = {one: taught(model, start_of(model), one, steps=250, seed=1) for one in (short, long)}
    mixed = [np.random.default_rng(seed).permutation(ITEMS)[:3].tolist() for seed in range(20)]
    for one, other in ((short, long), (long, short)):
        assert distance(model, learned[one], one, mixed) < 0.8 * distance(model, learned[other], one, mixed)


def test_lessons_start_from_the_given_parameters_and_change_nothing_else() -> None:
    model, teacher = model_of(), teacher_of(shoppers())
    initial = start_of(model)
    given = {name: value + 0.05 for name, value in initial.items()}
    before = {name: value.clone() for name, value in given.items()}
    unchanged = taught(model, given, teacher, steps=0, seed=1)
    assert all(torch.equal(unchanged[name], given[name]) for name in given)
    learned = taught(model, given, teacher, steps=3, seed=1)
    assert learned.keys() == model.shared_parameters().keys()
    assert relative_error(learned, given) < 0.5 * relative_error(learned, initial)
    assert all(torch.equal(given[name], before[name]) for name in given)
    assert all(torch.equal(value, initial[name]) for name, value in model.shared_parameters().items())


def test_the_seed_and_the_one_shot_sum_decide_and_nothing_else() -> None:
    model = model_of()
    start = start_of(model)
    first = taught(model, start, teacher_of(shoppers()), steps=5, seed=1)
    torch.manual_seed(5)
    again = taught(model, start, teacher_of(shoppers()), steps=5, seed=1)
    other = taught(model, start, teacher_of(shoppers()), steps=5, seed=2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    shuffled = [list(one) for one in reversed(shoppers())]  # other people, in effect, with the same sum
    same = taught(model, start, teacher_of(shuffled), steps=5, seed=1)
    assert relative_error(same, first) < 1e-6


def test_private_parameters_are_not_taught() -> None:
    model = model_of("mf", "model.private_user_vector=true")
    learned = taught(model, start_of(model), teacher_of(shoppers()), steps=2, seed=1)
    assert model.private_dimensions == DIMENSIONS
    assert "user_vector" not in learned


@pytest.mark.parametrize("lists", [[], [[3], [3]], [[0], [1], [2]]], ids=["nobody", "one item", "no pair"])
def test_a_teacher_who_knows_no_pair_teaches_nothing(lists: list[list[int]]) -> None:
    model = model_of()
    start = start_of(model)
    learned = taught(model, start, teacher_of(lists), steps=5, seed=1)
    assert all(torch.equal(learned[name], start[name]) for name in start)


@pytest.mark.parametrize("items", [1, 2, 3, 9, 12])
def test_catalogues_smaller_than_a_walk(items: int) -> None:
    """Walks of up to ten items run out of items to go to."""
    model = model_of(items=items)
    lists = [[i, (i + 1) % items] for i in range(items)] * 3
    learned = taught(model, start_of(model), teacher_of(lists, items), steps=25, seed=1)
    assert all(torch.isfinite(value).all() for value in learned.values())
