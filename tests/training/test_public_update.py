"""What the coordinator learns from the catalogue: the auxiliary tasks' gradient, and pre-training."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from tiny_models import ITEMS, relative_error, tiny_config, tiny_features, tiny_model

from mmfed.models.base import HistoryBatch, ItemFeatures, Recommender, item_features
from mmfed.models.registry import RECOMMENDERS
from mmfed.rng import torch_generator
from mmfed.training.public import _contrast, _view, pretrained, pretraining_steps, public_update

TASKS = ("mtmf", "mmfnet")  # the recommenders with auxiliary tasks
RATES = ("training.auxiliary_weight=0.3", "training.learning_rate=0.5", "training.steps=4")


def clustered(items: int = ITEMS, *, kinds: int = 8, missing: float = 0.2) -> ItemFeatures:
    """Items of a few kinds; every modality tells the kind, with noise, and so do the labels."""
    generator = np.random.default_rng(2)
    kind = np.arange(items) % kinds
    arrays = {}
    for name, width in (("image", 6), ("text", 5), ("attributes", 4)):
        centres = generator.normal(size=(kinds, width))
        values = centres[kind] + 0.3 * generator.normal(size=(items, width))
        arrays[name] = values, generator.random(items) >= missing
    labels = {"category": np.eye(kinds, dtype=bool)[kind], "price_band": np.eye(3, dtype=bool)[kind % 3]}
    return item_features(arrays, items, labels)


def values_of(model: Recommender) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.shared_parameters().items()}


def with_values(model: Recommender, parameters: dict[str, torch.Tensor], name: str) -> Recommender:
    """Another model of the same make that holds ``parameters``."""
    local = tiny_model(tiny_config(f"model.name={name}"), model.features, seed=9)
    with torch.no_grad():
        for key, value in local.shared_parameters().items():
            value.copy_(parameters[key])
    return local


class TestPublicUpdate:
    @pytest.mark.parametrize("name", TASKS)
    def test_it_is_minus_the_step_times_the_gradient_of_the_tasks(self, name: str) -> None:
        config = tiny_config(f"model.name={name}", *RATES)
        model = tiny_model(config)
        parameters = {key: value * 1.1 for key, value in values_of(model).items()}
        update = public_update(model, parameters, config.training)

        other = with_values(model, parameters, name)
        loss = sum(other.auxiliary_losses().values(), torch.zeros(()).double())
        loss.backward()
        expected = {
            key: -0.3 * 0.5 * 4 * value.grad
            for key, value in other.shared_parameters().items()
            if value.grad is not None
        }
        assert update.keys() == expected.keys()
        assert relative_error(update, expected) < 1e-12
        assert all(value.dtype == torch.float64 for value in update.values())
        assert any(value.abs().max() > 0 for value in update.values())

    def test_it_is_the_slope_of_the_loss(self) -> None:
        """Against finite differences: to move by a small part of the update lowers the loss by its norm squared."""
        config = tiny_config("model.name=mtmf", *RATES)
        model = tiny_model(config)
        start, update = values_of(model), public_update(model, values_of(model), config.training)

        def loss_at(share: float) -> float:
            moved = {key: value + share * update.get(key, torch.zeros(())) for key, value in start.items()}
            return labels_loss(with_values(model, moved, "mtmf"))

        small = 1e-5
        slope = (loss_at(small) - loss_at(-small)) / (2 * small)
        squared = sum(float(value.square().sum()) for value in update.values())
        assert slope == pytest.approx(-squared / (0.3 * 0.5 * 4), rel=1e-5)

    @pytest.mark.parametrize("name", sorted(set(RECOMMENDERS) - set(TASKS)))
    def test_models_without_tasks_get_nothing(self, name: str) -> None:
        config = tiny_config(f"model.name={name}", *RATES)
        model = tiny_model(config)
        assert public_update(model, values_of(model), config.training) == {}

    def test_weight_zero_is_off(self) -> None:
        config = tiny_config("model.name=mtmf", "training.auxiliary_weight=0")
        model = tiny_model(config)
        assert public_update(model, values_of(model), config.training) == {}

    @pytest.mark.parametrize("name", TASKS)
    def test_without_labels_there_is_no_task(self, name: str) -> None:
        config = tiny_config(f"model.name={name}", *RATES)
        features = tiny_features()
        bare = ItemFeatures(features.names, features.values, features.present)
        model = tiny_model(config, bare)
        assert public_update(model, values_of(model), config.training) == {}

    @pytest.mark.parametrize("name", TASKS)
    def test_labels_that_nobody_has_move_nothing(self, name: str) -> None:
        config = tiny_config(f"model.name={name}", *RATES)
        arrays = {"image": (np.ones((5, 2)), np.ones(5, dtype=bool))}
        labels = {"category": np.zeros((5, 3), dtype=bool), "price_band": np.zeros((5, 2), dtype=bool)}
        model = tiny_model(config, item_features(arrays, 5, labels))
        update = public_update(model, values_of(model), config.training)
        assert all(not torch.count_nonzero(value) for value in update.values())

    def test_only_the_towers_move(self) -> None:
        """A label says nothing about ids or popularity, and nothing private is touched."""
        config = tiny_config("model.name=mtmf", "model.private_user_vector=true", *RATES)
        model = tiny_model(config)
        start = values_of(model)
        update = public_update(model, start, config.training)
        assert not update.keys() - model.shared_parameters().keys()
        assert {key for key in update if update[key].abs().max() > 0} <= {
            key for key in start if key.startswith("target_head.")
        }
        assert all(torch.equal(value, start[key]) for key, value in model.shared_parameters().items())


def contrast(model: Recommender) -> float:
    """Share of items whose target side is nearer to their own history side than 90 % of the catalogue is."""
    with torch.no_grad():
        tables = model.item_tables()
        rows = torch.arange(model.item_count)[:, None]
        ones = torch.ones(model.item_count, 1, dtype=tables.bias.dtype)
        batch = HistoryBatch(
            items=rows,
            known=ones,
            kept=ones,
            positions=torch.ones_like(rows),
            others=torch.zeros_like(ones),
            user_vectors=torch.zeros(model.item_count, model.private_dimensions, dtype=tables.bias.dtype),
            ratings=ones,
        )
        scores = model.score(model.user_states(tables.history[rows], batch), tables)[:, 0]
        own = scores.diagonal()[:, None]
        return float(((scores > own).sum(1) < model.item_count / 10).double().mean())


def labels_loss(model: Recommender) -> float:
    with torch.no_grad():
        return float(sum(model.auxiliary_losses().values(), torch.zeros(())))


def by_name(name: str, features: ItemFeatures, *more: str) -> Recommender:
    return tiny_model(tiny_config(f"model.name={name}", *more), features, dtype=torch.float32)


class TestPretrained:
    @pytest.mark.parametrize("name", ["mf", "gcn", "mmfnet", "mtmf"])
    def test_items_are_found_again_and_labels_told(self, name: str) -> None:
        model = by_name(name, clustered())
        start_contrast, start_loss = contrast(model), labels_loss(model)
        learned = pretrained(model, steps=150, seed=0)
        with torch.no_grad():
            for key, value in model.shared_parameters().items():
                value.copy_(learned[key])
        # A product of small factors is nearly their sum: mtmf tells items apart less sharply.
        assert contrast(model) > start_contrast + (0.1 if name == "mtmf" else 0.2)
        if name in TASKS:
            assert labels_loss(model) < 0.8 * start_loss

    def test_no_interactions_can_be_given(self) -> None:
        """The guarantee rests on the signature: model, steps, seed; a model of the catalogue holds no history."""
        assert list(inspect.signature(pretrained).parameters) == ["model", "steps", "seed"]
        assert list(inspect.signature(public_update).parameters) == ["model", "parameters", "training"]

    def test_the_seed_decides_and_nothing_else(self) -> None:
        model = by_name("mf", clustered())
        first = pretrained(model, steps=3, seed=4)
        torch.manual_seed(77)
        again, other = pretrained(model, steps=3, seed=4), pretrained(model, steps=3, seed=5)
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert any(not torch.equal(first[key], other[key]) for key in first)

    def test_the_model_is_not_changed_and_what_is_per_item_stays(self) -> None:
        model = by_name("mtmf", clustered(), "model.private_user_vector=true")
        start = values_of(model)
        learned = pretrained(model, steps=3, seed=0)
        assert learned.keys() == start.keys()
        assert all(torch.equal(value, start[key]) for key, value in model.shared_parameters().items())
        same = {key for key in start if torch.equal(learned[key], start[key])}
        assert {"item_bias", "history_ids", "target_ids"} <= same
        assert any(key.startswith("history_head.") for key in start.keys() - same)
        assert any(key.startswith("target_head.") for key in start.keys() - same)

    def test_it_ends_at_small_scores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A start at large scores drowned what people's noisy updates said."""

        def spread() -> float:
            model = by_name("mf", clustered())
            learned = pretrained(model, steps=150, seed=0)
            with torch.no_grad():
                return float((learned["history_head.project.image"] @ learned["target_head.project.image"].T).std())

        mild = spread()
        monkeypatch.setattr("mmfed.training.public.TEMPERATURE", 1.0)
        assert mild < spread() / 3

    def test_a_projection_as_wide_as_the_catalogue_is_long_is_trained(self) -> None:
        """Parameters of single items are told by name, not by their first dimension."""
        model = by_name("mf", tiny_features(items=6, widths={"image": 6, "text": 3}, missing=0.0))
        learned, start = pretrained(model, steps=3, seed=0), values_of(model)
        assert not torch.equal(learned["history_head.project.image"], start["history_head.project.image"])
        assert torch.equal(learned["item_bias"], start["item_bias"])

    def test_no_steps_give_the_parameters_as_they_are(self) -> None:
        model = by_name("mf", clustered())
        learned = pretrained(model, steps=0, seed=0)
        assert all(torch.equal(learned[key], value) for key, value in model.shared_parameters().items())
        assert all(not value.requires_grad for value in learned.values())

    @pytest.mark.parametrize("name", sorted(RECOMMENDERS))
    @pytest.mark.parametrize(
        "features",
        [
            tiny_features(items=1, missing=0.0),
            tiny_features(items=2, missing=0.0),
            tiny_features(missing=1.0),
            tiny_features(missing=0.8),
            tiny_features(widths={"attributes": 3}),
            tiny_features(widths={}),
            ItemFeatures(("image",), (torch.ones(7, 2),), torch.ones(7, 1)),
        ],
        ids=["one item", "two items", "all missing", "most missing", "one modality", "ids only", "no labels"],
    )
    def test_poor_catalogues(self, name: str, features: ItemFeatures) -> None:
        model = by_name(name, features)
        learned = pretrained(model, steps=2, seed=0)
        assert learned.keys() == model.shared_parameters().keys()
        assert all(torch.isfinite(value).all() for value in learned.values())

    def test_items_without_content_have_no_say(self) -> None:
        """Rows of absent content may hold anything: training reads present items only."""
        features = tiny_features(widths={"image": 5}, missing=0.3)
        absent = features.present[:, 0] == 0
        other = ItemFeatures(
            features.names,
            (torch.where(absent[:, None], torch.full((), 50.0), features.values[0]),),
            features.present,
            features.labels,
        )
        assert absent.any()
        first, second = (pretrained(by_name("mf", one), steps=4, seed=0) for one in (features, other))
        assert all(torch.equal(first[key], second[key]) for key in first)


class TestContrast:
    def test_an_item_is_not_its_own_rival(self) -> None:
        """Drawn among the random others, the item itself does not count: alone it is found for certain."""
        model = by_name("mf", tiny_features(missing=0.0))
        loss = _contrast(model, model.item_values(), torch.tensor([3]), torch_generator(0, "test"))
        assert float(loss.detach()) == 0.0
        rivals = _contrast(model, model.item_values(), torch.arange(ITEMS), torch_generator(0, "test"))
        assert float(rivals.detach()) > 0.0

    @pytest.mark.parametrize("name", ["mf", "mmcnn"])
    def test_a_view_hides_much_but_never_all_of_an_item(self, name: str) -> None:
        features = tiny_features(items=300, missing=0.4)
        model, generator = by_name(name, features), torch_generator(0, "test")
        content = features.present > 0
        held = content.sum(1).double()
        expected = float((held * (0.5 - 0.5**held)).sum())  # half of all, but for items that would lose everything
        for _ in range(5):
            view = _view(model, generator)
            assert view.shape == (300, model.modality_columns)
            shown = (view[:, :3] > 0) & content
            assert torch.equal(shown.any(1), content.any(1))
            hidden = int((content & ~shown).sum())
            assert hidden == pytest.approx(expected, rel=0.2)
            assert not view[:, 3:].any(), "ids are hidden"


@pytest.mark.parametrize(
    ("asked", "private", "content", "steps"),
    [
        (None, True, True, 300),
        (None, False, True, 0),
        (None, True, False, 0),
        (7, False, True, 7),
        (7, True, True, 7),
        (7, True, False, 0),
        (0, True, True, 0),
    ],
)
def test_steps(asked: int | None, private: bool, content: bool, steps: int) -> None:
    assert pretraining_steps(asked, private=private, content=content) == steps
