"""A round of secure aggregation between devices in one process, with parties that drop out at any step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mmfed.privacy.secure_aggregation.answer import Answer
from mmfed.privacy.secure_aggregation.context import RoundContext, least_threshold
from mmfed.privacy.secure_aggregation.coordinator import Coordinator
from mmfed.privacy.secure_aggregation.device import Device
from mmfed.privacy.secure_aggregation.roster import Roster

STEPS = ("advertise", "share", "mask", "agree", "answer")


def identities(count: int) -> list[Ed25519PrivateKey]:
    """Keys in the order of their public halves, the same in every test run."""
    keys = [Ed25519PrivateKey.from_private_bytes(bytes([1 + place]) * 32) for place in range(count)]
    return sorted(keys, key=lambda key: key.public_key().public_bytes_raw())


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def context_of(keys: list[Ed25519PrivateKey], **other: object) -> RoundContext:
    settings: dict = {
        "run_id": "test",
        "round_number": 1,
        "nonce": bytes(16),
        "parties": tuple(public(key) for key in keys),
        "users": (1,) * len(keys),
        "threshold": least_threshold(len(keys)),
        "minimum_users": 1,
        "bits": 20,
        "length": 50,
        **other,
    }
    return RoundContext(**settings)


@dataclass
class Parties:
    """Every party of a round and what the server sees of it."""

    context: RoundContext
    devices: dict[bytes, Device]
    coordinator: Coordinator
    masked: dict[bytes, bytes] = field(default_factory=dict)
    answers: dict[bytes, Answer] = field(default_factory=dict)

    @classmethod
    def of(cls, keys: list[Ed25519PrivateKey], **other: object) -> Parties:
        context = context_of(keys, **other)
        roster = Roster.of(context.parties)
        return cls(context, {public(key): Device(key, roster, context) for key in keys}, Coordinator(context))

    def run(self, vectors: Mapping[bytes, np.ndarray], drop: Mapping[str, Collection[int]] | None = None) -> np.ndarray:
        """The sum; ``drop`` names the places of parties that are gone from a step on."""
        self.until_answers(vectors, drop)
        return self.coordinator.answered(self.answers)

    def until_answers(self, vectors: Mapping[bytes, np.ndarray], drop: Mapping[str, Collection[int]] | None) -> None:
        order = list(self.devices)
        gone: set[bytes] = set()

        def present(step: str) -> list[bytes]:
            gone.update(order[place] for place in (drop or {}).get(step, ()))
            return [party for party in order if party not in gone]

        keys = self.coordinator.advertised({p: self.devices[p].advertise() for p in present("advertise")})
        passed = self.coordinator.shared({p: self.devices[p].share(keys) for p in present("share")})
        self.masked = {p: self.devices[p].mask(passed[p], vectors[p]) for p in present("mask")}
        survivors = self.coordinator.masked(self.masked)
        agreed = self.coordinator.agreed({p: self.devices[p].agree(survivors) for p in present("agree")})
        dropped = self.coordinator.dropped
        self.answers = {p: self.devices[p].answer(survivors, dropped, agreed) for p in present("answer")}


def random_vectors(parties: Parties, seed: int = 0, reach: int = 1000) -> dict[bytes, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {party: generator.integers(-reach, reach, parties.context.length) for party in parties.devices}
