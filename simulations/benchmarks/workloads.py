"""The workloads: what is trained, on synthetic people and items, and the least arithmetic that it takes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from mmfed.config import Config, build_config
from mmfed.models.base import Recommender, item_features
from mmfed.models.registry import build_recommender
from mmfed.training.batch import Histories
from mmfed.training.update import LocalWork

VECTOR_SCALE = 0.1


@dataclass(frozen=True, eq=False)
class Workload:
    """A cohort's round.

    Attributes:
        name, about: for the table.
        items: size of the catalogue.
        widths: features by modality.
        mean_length: interactions of a user, on average (log-normal, as shops have it).
        settings: of the configuration.
        flops: least floating point operations of a user with so many interactions: the products that every way of
            computing it needs. None where memory, not arithmetic, is the limit.
        users: how many the engine trains in a measurement; ``few`` for slow peers.
    """

    name: str
    about: str
    items: int
    widths: Mapping[str, int]
    mean_length: float
    settings: Mapping[str, object]
    flops: Callable[[Config, Mapping[str, int], int, float], float] | None
    users: int = 512
    few: int = 32
    seed: int = 0

    def config(self) -> Config:
        return build_config({}, [f"{key}={_toml(value)}" for key, value in self.settings.items()])

    def model(self, config: Config) -> Recommender:
        generator = np.random.default_rng(self.seed)
        arrays = {
            name: (generator.standard_normal((self.items, width), dtype=np.float32), np.ones(self.items, dtype=bool))
            for name, width in self.widths.items()
        }
        labels = {"category": np.eye(10, dtype=bool)[generator.integers(0, 10, self.items)]}
        return build_recommender(config.model, item_features(arrays, self.items, labels), seed=self.seed)

    def histories(self, users: int) -> Histories:
        generator = np.random.default_rng(self.seed + 1)
        spread = 0.8
        lengths = np.exp(generator.normal(np.log(self.mean_length) - spread**2 / 2, spread, users)).astype(np.int64)
        lengths = np.clip(lengths, 3, 8 * int(self.mean_length))
        popular = generator.permutation(self.items)
        places = (self.items * generator.random(int(lengths.sum())) ** 2).astype(np.int64)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        keys = generator.integers(0, 2**63, users).astype(np.uint64)
        return Histories(keys, indptr.astype(np.int64), popular[places])

    def vectors(self, model: Recommender, users: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(users, model.private_dimensions, generator=generator) * VECTOR_SCALE

    def work(self, config: Config) -> LocalWork:
        return LocalWork(training=config.training, privacy=config.privacy, seed=self.seed, round_number=1)


def in_double(model: Recommender) -> Recommender:
    """A copy of the model that computes in float64."""
    double = copy.deepcopy(model).double()
    double.features = double.features.to(torch.float64)
    return double


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _pairs(config: Config, widths: Mapping[str, int], items: int, length: float) -> float:
    """Of every (positive and negative) pair the projections and their weights' gradients, the gates and their two."""
    del items
    pairs, d = length * (1 + config.training.negatives), config.model.dimensions
    return 4 * pairs * sum(widths.values()) * d + 6 * pairs * len(widths) * d * d


def _all_items(config: Config, widths: Mapping[str, int], items: int, length: float) -> float:
    """Scores of all items at every position, and their two gradients."""
    del widths
    return 6 * min(length, config.training.positions) * items * config.model.dimensions


CLASSIC = {
    "model.name": "mf",
    "model.history": 0,
    "model.private_user_vector": True,
    "training.objective": "bce",
    "training.negatives": 4,
    "training.epochs": 1,
    "training.positions": 32,
    "training.history_dropout": 0,
    "training.learning_rate": 0.05,
    "privacy.mode": "user-central",
}
# Clip norms lie in the middle of the users' norms: about half are clipped, so that a wrong clip gives a wrong sum.
POOLED = {"training.positions": 30, "privacy.mode": "user-central", "privacy.clip_norm": 0.15}
CONTENT = {"image": 64, "text": 64, "attributes": 20}
CLASSIC_IDS = CLASSIC | {"model.dimensions": 32, "privacy.clip_norm": 0.009}
CLASSIC_CONTENT = CLASSIC | {"model.fusion": "gated", "model.item_ids": False}

WORKLOADS = (
    Workload(
        "W1", "gated fusion of 512 + 384 features, user vectors, an epoch in batches of 32", 3700,
        {"image": 512, "text": 384}, 72, CLASSIC_CONTENT | {"model.dimensions": 64, "privacy.clip_norm": 0.065},
        _pairs, users=256,
    ),
    Workload(
        "W2", "the same of 64 + 64 features, d = 32", 3700, {"image": 64, "text": 64}, 72,
        CLASSIC_CONTENT | {"model.dimensions": 32, "privacy.clip_norm": 0.018}, _pairs, users=2048,
    ),
    Workload("W3", "matrix factorisation on ids, 3,700 items", 3700, {}, 72, CLASSIC_IDS, None, users=2048),
    Workload(
        "W3 large", "the same, 100,000 items", 100_000, {}, 72, CLASSIC_IDS, None, users=1024, few=8
    ),
    Workload(
        "W4", "pooled history, ids, full softmax over 1,682 items at 30 positions", 1682, {}, 106,
        POOLED | {"model.name": "mf"}, _all_items,
    ),
    *(
        Workload(
            name, "ids and 64 + 64 + 20 features, the model's own objective", 1682, CONTENT, 106,
            POOLED | {"model.name": name}, None, users=128, few=16,
        )
        for name in ("mf", "dfmf", "gcn", "mmfnet", "mtmf", "mmcnn")
    ),
)  # fmt: skip

RECORD = Workload(
    "W1 record", "W1's tower on a pooled history, windows of 10 interactions clipped one by one on every device",
    3700, {"image": 512, "text": 384}, 72,
    {
        "model.name": "mf", "model.fusion": "gated", "model.item_ids": False, "training.objective": "bce",
        "training.negatives": 4, "training.positions": 32, "training.steps": 2, "training.history_dropout": 0,
        "training.learning_rate": 0.05, "privacy.mode": "record", "privacy.clip_norm": 2.8,
    },
    None,
)  # fmt: skip
