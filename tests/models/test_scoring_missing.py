"""Scores with parts of items hidden: modalities, ids of cold items, biases of cold items."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import ITEMS, random_histories, tiny_config, tiny_model

from mmfed.models.base import Recommender
from mmfed.models.scoring import ModelScorer

COLD = np.arange(ITEMS) % 5 == 0
HISTORIES = random_histories([3, 7, 0])
USERS = np.arange(3)


def model_of(*overrides: str) -> Recommender:
    return tiny_model(tiny_config(*overrides))


def scores(model: Recommender, **options: Any) -> np.ndarray:
    return ModelScorer(model, HISTORIES, **options)(USERS)  # pyright: ignore[reportArgumentType]


def changed(model: Recommender) -> Recommender:
    """The same model with other id vectors for cold items."""
    with torch.no_grad():
        for name in ("history_ids", "target_ids"):
            getattr(model, name)[torch.from_numpy(COLD)] += 1.0
    return model


@pytest.mark.parametrize("name", ["dfmf", "mf", "mmfnet"])
def test_ids_of_cold_items_are_never_read(name: str) -> None:
    plain, other = model_of(f"model.name={name}"), changed(model_of(f"model.name={name}"))
    assert not np.allclose(scores(plain), scores(other))
    assert np.allclose(scores(plain, cold=COLD), scores(other, cold=COLD))


def test_ids_of_warm_items_stay() -> None:
    model = model_of()
    with torch.inference_mode():
        mask = torch.ones(ITEMS, model.modality_columns, dtype=torch.float64)
        mask[torch.from_numpy(COLD), -1] = 0
        expected = model.item_tables(mask).target[torch.from_numpy(~COLD)]
        assert torch.equal(expected, model.item_tables().target[torch.from_numpy(~COLD)])
    lonely = random_histories([0])
    whole = ModelScorer(model, lonely)(np.arange(1))  # pyright: ignore[reportArgumentType]
    masked = ModelScorer(model, lonely, cold=COLD)(np.arange(1))  # pyright: ignore[reportArgumentType]
    assert np.allclose(whole[:, ~COLD], masked[:, ~COLD])


def test_given_biases_replace_those_of_cold_items_only() -> None:
    model = model_of()
    without, given = scores(model, cold=COLD), scores(model, cold=COLD, bias=np.full(ITEMS, 100.0))
    own = model.item_tables().bias.detach().numpy()
    assert np.allclose(given[:, ~COLD], without[:, ~COLD])
    assert np.allclose(given[:, COLD] - without[:, COLD], 100.0 - own[COLD])


def test_a_model_without_ids_has_none_to_hide() -> None:
    model = model_of("model.item_ids=false")
    assert np.array_equal(scores(model, cold=COLD), scores(model))


def test_an_unknown_modality_is_a_fault() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        scores(model_of(), hidden=("smell",))
