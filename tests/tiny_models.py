"""Models and histories small enough for property tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfed.config import Config, build_config
from mmfed.data.own_content import OwnContent
from mmfed.data.schema import Features
from mmfed.encoders.own import OwnFeatures
from mmfed.models.base import ItemFeatures, Recommender, item_features
from mmfed.models.registry import build_recommender
from mmfed.training.batch import Histories
from mmfed.training.update import LocalWork

ITEMS, DIMENSIONS = 40, 8
WIDTHS = {"image": 5, "text": 3, "attributes": 4}


def tiny_config(*overrides: str) -> Config:
    """Defaults with dimensions 8 and what the test wants."""
    return build_config({}, [f"model.dimensions={DIMENSIONS}", *overrides])


def tiny_features(
    items: int = ITEMS, *, widths: Mapping[str, int] = WIDTHS, missing: float = 0.2, seed: int = 0
) -> ItemFeatures:
    """Random features; a share of the rows of every modality is missing."""
    generator = np.random.default_rng(seed)
    arrays = {
        name: (generator.normal(size=(items, width)), generator.random(items) >= missing)
        for name, width in widths.items()
    }
    labels = {"category": generator.random((items, 4)) < 0.4, "price_band": np.eye(3, dtype=bool)[np.arange(items) % 3]}
    return item_features(arrays, items, labels)


def tiny_model(
    config: Config,
    features: ItemFeatures | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 1,
    answers: int = 0,
) -> Recommender:
    """A model whose parameters are all away from zero, so that no gradient vanishes by symmetry."""
    ratings = config.training.objective == "mse"
    catalogue = features or tiny_features()
    model = build_recommender(config.model, catalogue, seed=seed, ratings=ratings, answers=answers).to(dtype)
    model.features = model.features.to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
    return model


def histories_from(lists: Sequence[Sequence[int]], keys: Sequence[int] | None = None) -> Histories:
    """One sequence per list."""
    lengths = [len(one) for one in lists]
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = np.array([item for one in lists for item in one], dtype=np.int64)
    named = np.arange(1, len(lists) + 1) * 7_919 if keys is None else np.array(keys)
    # Every third event is unrated; actions go round.
    values = np.where(np.arange(len(items)) % 3 == 2, np.nan, 1.0 + np.arange(len(items)) * 7 % 5)
    return Histories(named.astype(np.uint64), indptr, items, values, np.arange(len(items)) % 4)


def random_histories(lengths: Sequence[int], *, items: int = ITEMS, seed: int = 0) -> Histories:
    """Random items, repetitions included."""
    generator = np.random.default_rng(seed)
    return histories_from([generator.integers(0, items, length).tolist() for length in lengths])


def work_of(config: Config, *, seed: int = 3, round_number: int = 2) -> LocalWork:
    """The local work of a configuration."""
    return LocalWork(training=config.training, privacy=config.privacy, seed=seed, round_number=round_number)


def norm_of(tensors: Mapping[str, Tensor]) -> float:
    """Euclidean norm of all tensors together."""
    return float(sum((value.double().square().sum() for value in tensors.values()), torch.zeros(())).sqrt())


def relative_error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Distance over the norm of ``expected``; the distance itself where that norm is 0."""
    if found.keys() != expected.keys():
        raise AssertionError(f"{sorted(found)} and {sorted(expected)}")
    distance = norm_of({name: found[name].double() - expected[name].double() for name in expected})
    return distance / (norm_of(expected) or 1.0)


def toml(value: Any) -> str:
    """A value as ``--set`` wants it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def with_own_content(
    histories: Histories,
    features: ItemFeatures,
    counts: Sequence[int],
    *,
    names: Sequence[str] = ("image", "text"),
    seed: int = 0,
    missing: float = 0.3,
) -> Histories:
    """The same histories with ``counts`` rows of random own content strewn in, of the named modalities."""
    generator = np.random.default_rng(seed)
    total = int(sum(counts))
    encoded = {
        name: Features(generator.normal(size=(total, width)).astype(np.float32), generator.random(total) >= missing)
        for name, width in features.widths.items()
        if name in names
    }
    nothing = (None,) * total
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    names = [str(key) for key in histories.keys]
    zeros = np.zeros(total, dtype=np.int64)
    content = OwnContent(names, indptr, zeros, zeros - 1, nothing, nothing, nothing, nothing)
    owners = content.user_of_row()
    users = np.concatenate([np.repeat(np.arange(len(histories)), histories.lengths), owners])
    between = generator.uniform(histories.indptr[owners] - 1, histories.indptr[owners + 1])
    order = np.lexsort((np.concatenate([np.arange(len(histories.items)), between]), users))

    def joined(column: np.ndarray, missing: float) -> np.ndarray:
        return np.concatenate([column, np.full(total, missing, dtype=column.dtype)])[order]

    return Histories(
        histories.keys,
        np.concatenate([[0], np.cumsum(np.bincount(users, minlength=len(histories)))]).astype(np.int64),
        joined(histories.items, -1),
        None if histories.values is None else joined(histories.values, np.nan),
        None if histories.actions is None else joined(histories.actions, -1),
        np.concatenate([np.full(len(histories.items), -1), np.arange(total)])[order],
        OwnFeatures(content, encoded),
    )
