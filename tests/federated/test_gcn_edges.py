"""``gcn``: no user-item edge is an entry of a message. All messages of real rounds, both ways, are looked at.

What holds is about form: a device sends sums of a fixed shape. What may be read out of the numbers of a sum is for
noise and for company to hide, and the last class says how much that is without them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federation import SpyingGrid, device, federate
from flwr.app import Message
from tiny_shop import ITEMS, USERS, tiny_run, write_tiny_shop

from mmfed.config import Config
from mmfed.federated import tasks, wire
from mmfed.federated.one_shot import load_one_shot
from mmfed.federated.workspace import load_workspace
from mmfed.models.band_ease import BandEase
from mmfed.models.gcn import GraphConvolution
from mmfed.records import RunFolder

NEIGHBOURS = 4
GCN = ("model.name=gcn", f"model.neighbours={NEIGHBOURS}", "federation.rounds=2", "training.pretraining=10")
LEARNED = (*GCN, "privacy.mode=none", "one_shot.enabled=true")
KINDS = {
    "content graph": (*GCN, "privacy.mode=none"),
    "content graph, noised": (*GCN, "privacy.mode=user-central"),
    "content graph, record": (*GCN, "privacy.mode=record"),
    "learned graph": (*LEARNED, "model.graph=learned"),
    "both graphs": (*LEARNED, "model.graph=both"),
}
LEARNS = ("learned graph", "both graphs")
SHORT, LONG = list(range(6)), list(range(29, 8, -1))  # of other items, other lengths
COMPANY = list(range(3, 20))  # of the user on the other device


def shop_with(folder: Path, histories: Sequence[Sequence[int]]) -> Path:
    """The tiny shop's catalogue with other histories."""
    write_tiny_shop(folder / "shop")
    with open(folder / "shop" / "interactions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time", "action"])
        for user, items in enumerate(histories):
            writer.writerows(
                [f"u{user}", f"i{item}", 1_700_000_000 + 3 * 86_400 * step, "buy"] for step, item in enumerate(items)
            )
    return folder


def run_on(folder: Path, histories, kind: str, *, nodes: int = 1) -> tuple[Config, RunFolder, SpyingGrid]:
    config = tiny_run(shop_with(folder, histories), *KINDS[kind])
    run, grid = federate(config, nodes=nodes)
    return config, run, grid


def random_histories(users: int, *, seed: int = 0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.permutation(ITEMS)[: 9 + user % 9].tolist() for user in range(users)]


def form(message: Message) -> dict[str, object]:
    """Everything of a message but the numbers: names, types, shapes, sizes, and the counts in clear."""
    assert not message.has_error()
    found: dict[str, object] = {"type": message.metadata.message_type, "group": message.metadata.group_id}
    for record, values in message.content.items():
        found[record] = type(values).__name__
        for key, value in values.items():
            if hasattr(value, "data"):
                found[f"{record}.{key}"] = (value.dtype, tuple(value.shape), value.stype, len(value.data))
            elif isinstance(value, bytes | str):
                found[f"{record}.{key}"] = (type(value).__name__, len(value))
            else:
                found[f"{record}.{key}"] = value
    return found


def replies_of(grid: SpyingGrid) -> list[Message]:
    """What left the devices with arrays in it, in the order it left."""
    return [message for message in grid.received if "report" in message.content]


def arrays_of(message: Message) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in message.content.array_records["model"].items()}


@pytest.mark.parametrize("kind", KINDS)
def test_messages_look_alike_whatever_the_user_did(tmp_path, kind):
    """A device with one user: two histories that share no item and differ in length, one form of message."""
    config, _, first = run_on(tmp_path / "one", [SHORT, COMPANY], kind, nodes=2)
    other, _, second = run_on(tmp_path / "two", [LONG, COMPANY], kind, nodes=2)
    held = [load_workspace(one).histories for one in (config, other)]
    histories = [set(one.items[: one.indptr[1]].tolist()) for one in held]
    assert not histories[0] & histories[1]
    assert len(histories[0]) != len(histories[1]), "the test has power: a list of edges would differ in length"
    assert load_workspace(config).features.digest == load_workspace(other).features.digest
    assert [form(message) for message in first.received] == [form(message) for message in second.received]
    assert len(replies_of(first)) == 2 * (3 if kind in LEARNS else 2)
    differ = [
        any(not np.array_equal(one, arrays_of(b)[name]) for name, one in arrays_of(a).items())
        for a, b in zip(replies_of(first), replies_of(second), strict=True)
        if a.metadata.src_node_id == 1
    ]
    assert all(differ), "the histories were used"


@pytest.mark.parametrize("kind", KINDS)
def test_a_reply_is_one_sum_however_many_users_are_in_it(tmp_path, kind):
    """Nothing grows with the users of a node but one count: no row, list or matrix of (user, item)."""
    config, _, few = run_on(tmp_path / "one", random_histories(2), kind)
    _, _, many = run_on(tmp_path / "two", random_histories(USERS), kind)
    model = load_workspace(config).new_model()
    shared = {name: tuple(value.shape) for name, value in model.shared_parameters().items()}
    packed = {"cooccurrence": (ITEMS * (ITEMS + 1) // 2,)}
    for pair, crowd in zip(replies_of(few), replies_of(many), strict=True):
        assert form(pair) | {"report.realised": 0} == form(crowd) | {"report.realised": 0}
        assert (form(pair)["report.realised"], form(crowd)["report.realised"]) == (2, USERS)
        assert {name: array.shape for name, array in arrays_of(crowd).items()} in (shared, packed)
        assert set(crowd.content) == {"model", "report"}


def task_of(config: Config, users: np.ndarray) -> tasks.Task:
    return tasks.Task(
        config=config,
        run_id="run-1",
        population=USERS,
        noise_multiplier=0.0,
        catalogue=load_workspace(config).features.digest,
        round_number=1,
        users=users,
    )


@pytest.mark.parametrize("kind", ["content graph", "learned graph"])
@pytest.mark.parametrize("message", [tasks.TRAIN, tasks.ONE_SHOT])
def test_the_sum_of_users_is_all_a_node_says(tmp_path, kind, message):
    """What a node says of several users is what their own devices say, added up: not one number more."""
    config = tiny_run(shop_with(tmp_path, random_histories(USERS)), *KINDS[kind])
    workspace = load_workspace(config)
    model = workspace.new_model()
    shapes = wire.shared_shapes(model) | wire.public_shapes(model)
    arrays = wire.encode(model.shared_parameters() | model.public_tensors(), shapes)
    answer = device(config, tmp_path / "state")

    def told(users: np.ndarray) -> dict[str, np.ndarray]:
        return arrays_of(answer(tasks.task_content(task_of(config, users), arrays), message))

    apart = [told(workspace.user_keys[user : user + 1]) for user in range(USERS)]
    for name, together in told(workspace.user_keys).items():
        np.testing.assert_allclose(together, sum(one[name] for one in apart), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_device_is_sent_the_same(tmp_path, kind):
    """The server's messages of a round differ in the users asked for and in nothing else."""
    config, _, grid = run_on(tmp_path, random_histories(USERS), kind, nodes=3)
    model = load_workspace(config).new_model()
    graphs = dict.fromkeys(("learned_neighbours", "learned_weights"), (ITEMS, NEIGHBOURS)) if kind in LEARNS else {}
    expected = {name: tuple(value.shape) for name, value in model.shared_parameters().items()} | graphs
    rounds: dict[tuple[str, str], set[bytes]] = {}
    for message in grid.sent:
        task = dict(message.content.config_records["task"])
        assert set(message.content) <= {"task", "model"}
        task.pop("users")
        arrays = message.content.array_records.get("model", {})
        if message.metadata.message_type == tasks.TRAIN:
            assert {name: tuple(array.shape) for name, array in arrays.items()} == expected
        else:
            assert not arrays
        said = repr(task).encode() + b"".join(name.encode() + array.data for name, array in sorted(arrays.items()))
        rounds.setdefault((message.metadata.message_type, message.metadata.group_id), set()).add(said)
    assert len(rounds) == (4 if kind in LEARNS else 3)
    assert all(len(said) == 1 for said in rounds.values())


@pytest.mark.parametrize("kind", ["content graph", "content graph, noised"])
def test_the_first_message_and_the_item_graph_know_nobody(tmp_path, kind):
    """Whoever did whatever: the same item-item graph, the same first model, pre-training included."""
    sent, graphs = [], []
    for name, histories in (("one", [SHORT, COMPANY]), ("two", [LONG, COMPANY]), ("six", random_histories(6))):
        config, _, grid = run_on(tmp_path / name, histories, kind)
        model = load_workspace(config).new_model()
        assert isinstance(model, GraphConvolution)
        graph = model.content_product.graph
        graphs.append((graph.indices, graph.weights))
        first = next(message for message in grid.sent if message.metadata.message_type == tasks.TRAIN)
        sent.append({name: array.data for name, array in first.content.array_records["model"].items()})
    assert all(one == sent[0] for one in sent)
    assert all(np.array_equal(a, b) for one in graphs for a, b in zip(one, graphs[0], strict=True))
    assert graphs[0][0].shape == (ITEMS, NEIGHBOURS)
    assert (graphs[0][1] > 0).any()


@pytest.mark.parametrize("kind", LEARNS)
def test_the_learned_graph_is_made_of_the_sum_alone(tmp_path, kind):
    """Item-item edges from the one-shot sum over all users; the same in every round."""
    config, run, grid = run_on(tmp_path, random_histories(USERS), kind, nodes=3)
    cooccurrence = load_one_shot(run).cooccurrence
    graph = BandEase(cooccurrence, ridge=2.0, history_decay=config.one_shot.history_decay).graph(NEIGHBOURS)
    trained = [message for message in grid.sent if message.metadata.message_type == tasks.TRAIN]
    assert len(trained) == 6
    for message in trained:
        arrays = arrays_of(message)
        assert np.array_equal(arrays["learned_neighbours"], graph.indices)
        assert np.array_equal(arrays["learned_weights"], graph.weights)
    assert (graph.weights > 0).any()


def bytes_of(messages: Iterable[Message]) -> bytes:
    parts = []
    for message in messages:
        for values in message.content.values():
            for value in values.values():
                parts.append(value.data if hasattr(value, "data") else value if isinstance(value, bytes) else b"")
    return b"\n".join(parts)


def encodings(items: np.ndarray) -> Iterable[bytes]:
    """A user's edges as people would write them: a list of items, a row of the user-item matrix, bits."""
    row = np.zeros(ITEMS)
    row[items] = 1
    for kind in (np.uint8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64):
        yield items.astype(kind).tobytes()
        yield np.sort(items).astype(kind).tobytes()
        yield row.astype(kind).tobytes()
        yield (row / len(items)).astype(kind).tobytes() if kind in (np.float32, np.float64) else row.tobytes()
    yield np.packbits(row.astype(bool)).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_no_row_of_the_user_item_matrix_in_any_message(tmp_path, kind):
    """Histories here are longer than an item's neighbours, whose lists may well be parts of them."""
    config, _, grid = run_on(tmp_path, random_histories(USERS), kind, nodes=USERS)
    histories = load_workspace(config).histories
    traffic = bytes_of([*grid.sent, *grid.received])
    for user in range(len(histories)):
        items = histories.items[histories.indptr[user] : histories.indptr[user + 1]]
        assert len(items) > NEIGHBOURS
        assert not [edges for edges in encodings(items) if edges in traffic]


class TestWhatNumbersTell:
    """A sum of one user, told without noise, can be read: the form of a message is no privacy by itself."""

    def told(self, folder: Path, kind: str, message: str, *more: str) -> tuple[set[int], dict[str, np.ndarray]]:
        """The items of a user, and the reply of the user's own device."""
        config = tiny_run(shop_with(folder, [LONG, COMPANY]), *KINDS[kind], *more)
        workspace = load_workspace(config)
        model = workspace.new_model()
        shapes = wire.shared_shapes(model) | wire.public_shapes(model)
        arrays = wire.encode(model.shared_parameters() | model.public_tensors(), shapes)
        task = replace(task_of(config, workspace.user_keys[:1]), noise_multiplier=1.0)
        reply = device(config, folder / "state")(tasks.task_content(task, arrays), message)
        own = workspace.histories.items[: workspace.histories.indptr[1]]
        return set(own.tolist()), arrays_of(reply)

    def test_the_diagonal_of_a_one_shot_sum_of_one(self, tmp_path):
        own, arrays = self.told(tmp_path, "learned graph", tasks.ONE_SHOT)
        rows, columns = np.triu_indices(ITEMS)
        diagonal = arrays["cooccurrence"][rows == columns]
        assert set(np.flatnonzero(diagonal).tolist()) == own

    def test_the_sign_of_an_update_of_one(self, tmp_path):
        own, arrays = self.told(tmp_path, "content graph", tasks.TRAIN, "training.positions=30")
        assert set(np.flatnonzero(arrays["item_bias"] > 0).tolist()) == own

    def test_the_learned_graph_of_an_item_that_one_person_touched(self, tmp_path):
        """Every device is sent it, and its neighbours are things that person touched."""
        rare, crowd = ITEMS - 1, [history[:12] for history in random_histories(USERS)]
        lists = [[item for item in history if item != rare] for history in crowd]
        lists[0].insert(3, rare)
        config, _, grid = run_on(tmp_path, lists, "learned graph", nodes=3)
        histories = load_workspace(config).histories
        own = set(histories.items[: histories.indptr[1]].tolist())
        assert (histories.items == rare).sum() == 1
        arrays = arrays_of(next(one for one in grid.sent if one.metadata.message_type == tasks.TRAIN))
        edges = arrays["learned_weights"][rare] > 0
        assert edges.all()
        assert set(arrays["learned_neighbours"][rare].astype(int).tolist()) <= own - {rare}

    def test_noise_on_the_device_hides_it(self, tmp_path):
        own, arrays = self.told(tmp_path, "content graph, record", tasks.TRAIN, "training.positions=30")
        risen = set(np.flatnonzero(arrays["item_bias"] > 0).tolist())
        assert risen - own
        assert own - risen
