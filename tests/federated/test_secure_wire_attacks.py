"""What a curious server gets from one device's wire payload: which items, and whether a given one. Chance, no more.

The same attacks on the same updates without masks and noise succeed: they have power. Masks are drawn from a seed here,
so that a test of a 95 % interval does not fail one time in twenty.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mmfed.federated import wire
from mmfed.federated.secure_terms import dimension_of
from mmfed.federated.workspace import histories_of, load_workspace
from mmfed.privacy.distributed import DistributedNoise
from mmfed.privacy.random_words import SeededWords
from mmfed.privacy.secure_aggregation import device as device_module
from mmfed.privacy.secure_aggregation.context import RoundContext
from mmfed.privacy.secure_aggregation.device import Device
from mmfed.privacy.secure_aggregation.roster import Roster
from mmfed.training.batch import Histories
from mmfed.training.cohort import train_cohort
from mmfed.training.update import LocalWork

ROUNDS = 10


class Shop:
    """Updates of the tiny shop's users, each alone, and what a server knows: the model and its shapes."""

    def __init__(self, config) -> None:
        self.workspace = load_workspace(config)
        self.model = self.workspace.new_model()
        self.shapes = wire.shared_shapes(self.model)
        self.config = config
        train = self.workspace.split.train
        self.histories = histories_of(train, self.workspace.user_keys)
        self.items = [train.items[train.rows(user)] for user in range(train.user_count)]
        self.noise = DistributedNoise(
            clip_norm=config.privacy.clip_norm,
            noise_multiplier=1.0,
            dimension=dimension_of(self.shapes),
            cohort=100,
            minimum=80,
        )

    def update(self, items: np.ndarray, key: int = 1) -> np.ndarray:
        """The clipped update of a user who did this."""
        work = LocalWork(training=self.config.training, privacy=self.config.privacy, seed=0, round_number=1)
        history = Histories(np.array([key], dtype=np.uint64), np.array([0, len(items)]), items)
        vectors = np.zeros((1, self.model.private_dimensions), dtype=np.float32)
        return wire.flatten(train_cohort(self.model, history, torch.from_numpy(vectors), work).total, self.shapes)

    def touched_scores(self, vector: np.ndarray) -> np.ndarray:
        """[items] how much an update moves an item's row of the histories, and whether it raises its bias."""
        values = wire.unflatten(vector, self.shapes)
        rows, bias = values["history_ids"].norm(dim=1), values["item_bias"]
        return (rows / rows.max() + bias / bias.abs().max()).numpy()


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Chance that a positive scores above a negative."""
    inside, outside = scores[positive], scores[~positive]
    return float((inside[:, None] > outside).mean() + 0.5 * (inside[:, None] == outside).mean())


def masked_payloads(noise: DistributedNoise, updates: list[np.ndarray], round_number: int) -> list[np.ndarray]:
    """[users] what arrives of each user, read as if it were not masked: decoded and rotated back."""
    keys = [Ed25519PrivateKey.from_private_bytes(bytes([1 + place]) * 32) for place in range(len(updates))]
    keys.sort(key=lambda key: key.public_key().public_bytes_raw())
    context = RoundContext(
        run_id="attack",
        round_number=round_number,
        nonce=bytes(16),
        parties=tuple(key.public_key().public_bytes_raw() for key in keys),
        users=(1,) * len(keys),
        threshold=len(keys),
        minimum_users=len(keys),
        bits=noise.bits,
        length=noise.width,
    )
    devices = [Device(key, Roster.of(context.parties), context) for key in keys]
    adverts = [one.advertise() for one in devices]
    shares = [share for one in devices for share in one.share(adverts)]
    found = []
    for place, (one, update) in enumerate(zip(devices, updates, strict=True)):
        own = [share for share in shares if share.receiver == one.party]
        source = SeededWords(round_number, "attack", place)
        encoded = noise.encode(update, run_id="attack", round_number=round_number, source=source)
        total = context.ring.unpack(one.mask(own, encoded), noise.width)
        found.append(noise.decode(context.ring.decode(total), run_id="attack", round_number=round_number))
    return found


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval."""
    return float(np.mean(values)), float(1.96 * np.std(values, ddof=1) / np.sqrt(len(values)))


@pytest.fixture
def shop(configured, monkeypatch) -> Shop:
    generator = np.random.default_rng(11)
    monkeypatch.setattr(device_module, "secrets", SimpleNamespace(token_bytes=generator.bytes))
    return Shop(configured("privacy.mode=user-distributed", "model.name=mf", "training.positions=40"))


def test_support_recall_from_one_payload_is_chance(shop: Shop) -> None:
    updates = [shop.update(items) for items in shop.items]
    touched = [np.isin(np.arange(30), items) for items in shop.items]
    plain = [auc(shop.touched_scores(update), seen) for update, seen in zip(updates, touched, strict=True)]
    assert np.mean(plain) > 0.95  # in the clear the same attack names nearly all of them
    found = []
    for number in range(ROUNDS):
        payloads = masked_payloads(shop.noise, updates, number)
        found += [auc(shop.touched_scores(one), seen) for one, seen in zip(payloads, touched, strict=True)]
    mean, half = interval(found)
    assert half < 0.03
    assert abs(mean - 0.5) <= half


def test_interaction_membership_from_one_payload_is_chance(shop: Shop) -> None:
    """The server knows all but one of a user's interactions, and asks which of two items the last one is."""
    updates, templates = [], []
    for user, items in enumerate(shop.items):
        updates.append(shop.update(items))
        others = np.setdiff1d(np.arange(30), items)[(user * 5) % 15 :][:4]
        without = shop.update(items[:-1])
        members = [shop.update(items) - without]
        strangers = [shop.update(np.append(items[:-1], other)) - without for other in others]
        templates.append(np.stack(members + strangers))

    def scores(vectors: list[np.ndarray]) -> list[float]:
        """For every user the AUC of its own item among the others."""
        positive = np.arange(5) == 0
        unit = [t / np.linalg.norm(t, axis=1, keepdims=True) for t in templates]
        return [auc(t @ v, positive) for t, v in zip(unit, vectors, strict=True)]

    assert np.mean(scores(updates)) > 0.95
    found = [one for number in range(ROUNDS) for one in scores(masked_payloads(shop.noise, updates, 100 + number))]
    mean, half = interval(found)
    assert half < 0.07
    assert abs(mean - 0.5) <= half
