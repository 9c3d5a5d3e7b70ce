"""The whole traffic of a run: nothing private in it, in any encoding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from federation import federate
from flwr.app import Message
from tiny_shop import ITEMS, USERS

from mmfed.federated import tasks
from mmfed.federated.device_store import DeviceStore
from mmfed.federated.workspace import load_workspace
from mmfed.models.registry import RECOMMENDERS


def bytes_of(message: Message) -> bytes:
    """Everything in a message, as it would be serialised, arrays unpacked."""
    parts = [repr(message.metadata.__dict__).encode()]
    for name, record in message.content.items():
        parts.append(name.encode())
        for key, value in record.items():
            parts += [key.encode(), value.data if hasattr(value, "data") else repr(value).encode()]
            if isinstance(value, bytes):
                parts.append(value)
    return b"\n".join(parts)


VECTOR = ("model.private_user_vector=true",)
ADAPTER = ("features.attributes.training=adapter", "features.attributes.scope=private")
KINDS = {**{name: (f"model.name={name}", *VECTOR) for name in sorted(RECOMMENDERS)}, "adapter": (*ADAPTER, *VECTOR)}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def traffic(request, configured):
    config = configured(
        *request.param,
        "federation.rounds=3",
        "privacy.mode=user-central",
    )
    run, grid = federate(config)
    return config, run, grid


def test_private_vectors_were_trained_and_never_sent(traffic):
    config, run, grid = traffic
    width = load_workspace(config).new_model().private_dimensions
    assert width >= config.model.dimensions
    stores = [
        DeviceStore(folder / "vectors", users=USERS // 2, dimensions=width)
        for folder in sorted(run.devices.glob("*/node-*-of-2"))
    ]
    assert len(stores) == 2
    sent = b"".join(map(bytes_of, [*grid.sent, *grid.received]))
    for store in stores:
        for round_number in (1, 2, 3, 4):
            vectors = store.before(np.arange(USERS // 2), round_number)
            # An adapter's rows of attributes that a user never met stay zero.
            trained = vectors[:, : config.model.dimensions]
            assert round_number <= 2 or np.abs(trained).min() > 0, "the vectors were trained"
            adapters = vectors[:, config.model.dimensions :]
            assert round_number <= 2 or not adapters.size or adapters.any(1).all(), "so were the adapters"
            for vector in vectors[np.abs(vectors).max(axis=1) > 0]:
                for kind in (np.float32, np.float64):
                    assert vector.astype(kind).tobytes() not in sent
                    pairs = vector.astype(kind).reshape(-1, 2)
                    assert all(pair.tobytes() not in sent for pair in pairs if pair.all())


def test_no_names_and_no_histories_in_clear(traffic):
    config, _, grid = traffic
    interactions = load_workspace(config).shop.interactions
    sent = b"".join(map(bytes_of, [*grid.sent, *grid.received]))
    assert not [user for user in interactions.user_ids if f"'{user}'".encode() in sent or f'"{user}"'.encode() in sent]
    for user in range(interactions.user_count):
        for kind in (np.int32, np.int64, np.uint32, np.float32, np.float64):
            assert interactions.items[interactions.rows(user)].astype(kind).tobytes() not in sent


def test_a_reply_holds_a_dense_sum_and_one_count(traffic):
    config, _, grid = traffic
    shapes = {
        name: tuple(value.shape) for name, value in load_workspace(config).new_model().shared_parameters().items()
    }
    replies = [reply for reply in grid.received if "report" in reply.content]
    assert len(replies) == 6
    for reply in replies:
        assert set(reply.content) == {"model", "report"}
        assert dict(reply.content.metric_records["report"]) == {"realised": 6}
        assert {name: tuple(array.shape) for name, array in reply.content.array_records["model"].items()} == shapes


def test_what_the_coordinator_publishes_has_noise_on_every_row(configured):
    """After one round every row of every table has moved, whatever was touched; without noise some stand still."""

    def moved(*more: str) -> dict[str, np.ndarray]:
        run_name = f"run.name=m{len(more)}"
        config = configured("federation.rounds=2", "federation.cohort=2", "training.objective=bpr", run_name, *more)
        _, grid = federate(config, nodes=1)
        first, second = ([m for m in grid.sent if m.metadata.message_type == tasks.TRAIN] + [None, None])[:2]
        start = {name: value.detach().numpy() for name, value in load_workspace(config).new_model().named_parameters()}
        message = first if first.metadata.group_id == "2" else second
        model = {name: array.numpy() for name, array in message.content.array_records["model"].items()}
        return {
            name: np.abs(model[name] - start[name]).reshape(len(model[name]), -1).max(1)
            for name in ("history_ids", "item_bias")
        }

    noisy = moved("federation.server_optimiser.name=fedavg", "privacy.clip_norm=1.0")
    assert all((rows > 0).all() and len(rows) == ITEMS for rows in noisy.values())
    plain = moved("federation.server_optimiser.name=fedavg", "privacy.clip_norm=1.0", "privacy.mode=none")
    assert (plain["history_ids"] == 0).any(), "the test has power: touched rows would show"


def test_asking_is_independent_of_the_data(configured):
    """Every node gets the whole model, byte for byte the same."""
    _, grid = federate(configured("federation.rounds=2"), nodes=3)
    by_round: dict[str, set[bytes]] = {}
    for message in grid.sent:
        if message.metadata.message_type == tasks.TRAIN:
            arrays = message.content.array_records["model"]
            by_round.setdefault(message.metadata.group_id, set()).add(b"".join(a.data for a in arrays.values()))
    assert {number: len(models) for number, models in by_round.items()} == {"1": 1, "2": 1}


def test_training_does_not_depend_on_the_placeholder_of_the_private_vector(configured):
    config = configured("model.private_user_vector=true")
    model = load_workspace(config).new_model()
    private = [name for name in dict(model.named_parameters()) if name not in model.shared_parameters()]
    assert all(not torch.count_nonzero(dict(model.named_parameters())[name]) for name in private)
