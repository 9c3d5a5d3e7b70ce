"""The whole traffic of a run with people's answers: the same messages whatever they say, and no answer in them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from federation import SpyingGrid, device, federate
from people_shop import EDGES, USERS, people_run, write_people_shop
from test_own_content_traffic import shapes
from test_private_state import bytes_of

from mmfed.config import Config
from mmfed.federated import tasks, wire
from mmfed.federated.one_shot import load_one_shot
from mmfed.federated.workspace import load_workspace

PRIVATE = ("privacy.mode=user-central", "privacy.epsilon=none", "privacy.noise_multiplier=1.0", "federation.rounds=3")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shops: what people say is another's in the second."""
    folder = tmp_path_factory.mktemp("people")
    write_people_shop(folder / "shop")
    write_people_shop(folder / "other" / "shop", shuffled=True)
    return folder


def traffic(config: Config) -> SpyingGrid:
    return federate(config)[1]


def totals(grid: SpyingGrid) -> list[dict[str, np.ndarray]]:
    return [
        {name: array.numpy() for name, array in reply.content.array_records["model"].items()}
        for reply in grid.received
        if "report" in reply.content
    ]


@pytest.mark.parametrize("mode", ["none", "user-central"])
@pytest.mark.parametrize("engine", ["cohort", "reference"])
def test_the_same_messages_whatever_people_say_and_no_answer_in_them(
    place: Path, tmp_path: Path, mode: str, engine: str
) -> None:
    options = (*PRIVATE, f"privacy.mode={mode}", f"training.engine={engine}", f"run.folder={tmp_path}")
    config = people_run(place, *options)
    grid = traffic(config)
    other = traffic(people_run(place / "other", *options, "run.name=other"))
    assert sorted(map(repr, shapes(grid))) == sorted(map(repr, shapes(other)))
    workspace = load_workspace(config)
    assert workspace.people is not None
    assert workspace.shop.people is not None
    sent = b"".join(map(bytes_of, [*grid.sent, *grid.received]))
    with open(place / "shop" / "people.csv", newline="", encoding="utf-8") as file:
        ages = np.array([int(row["age"]) for row in csv.DictReader(file)])
    for answers in (workspace.people, workspace.shop.people.values, ages):
        for kind in (np.int8, np.int32, np.int64, np.float32, np.float64):
            for turned in (answers, answers.T):
                part = np.ascontiguousarray(turned.astype(kind)).reshape(-1)[:16]
                assert part.tobytes() not in sent
                assert ", ".join(map(str, part.tolist())).encode() not in sent
    assert any(np.abs(totals(grid)[-1][name] - totals(other)[-1][name]).max() > 1e-6 for name in totals(grid)[-1])


def test_the_one_shot_sum_is_of_interactions_alone(place: Path, tmp_path: Path) -> None:
    options = ("one_shot.enabled=true", "federation.rounds=1", f"run.folder={tmp_path}")
    sums = [
        load_one_shot(federate(people_run(place, *options, f"run.name=asked-{asked}", asked=asked))[0]).cooccurrence
        for asked in (True, False)
    ]
    assert np.abs(sums[0]).sum() > 0
    np.testing.assert_array_equal(sums[0], sums[1])


def update_of(config: Config, folder: Path, user: int) -> dict[str, np.ndarray]:
    """What the device of one person answers in the first round."""
    workspace = load_workspace(config)
    users, digest = workspace.user_keys[[user]], workspace.features.digest
    noise = 0.0 if config.privacy.mode == "none" else 1.0
    task = tasks.Task(config, "run-1", USERS, noise_multiplier=noise, catalogue=digest, round_number=1, users=users)
    model = workspace.new_model()
    arrays = wire.encode(model.shared_parameters(), wire.shared_shapes(model))
    reply = device(config, folder)(tasks.task_content(task, arrays))
    assert not reply.has_error()
    return {name: array.numpy() for name, array in reply.content.array_records["model"].items()}


@pytest.mark.parametrize("mode", ["none", "user-central"])
def test_the_update_of_a_single_device_shows_its_answers_before_noise(place: Path, tmp_path: Path, mode: str) -> None:
    """As docs/own-content.md admits: what hides them is the noise (or the sum) of many, no encoding."""
    config = people_run(place, *PRIVATE, f"privacy.mode={mode}", "data.split.new_users=0")
    people = load_workspace(config).people
    assert people is not None
    for user in (0, 1, 2):
        rows = update_of(config, tmp_path / str(user), user)["person_rows"].reshape(-1, config.model.dimensions)
        assert np.flatnonzero(np.abs(rows).sum(1)).tolist() == sorted(people[user].tolist())
        assert len(rows) == len(EDGES) + 1 + 2


def test_a_clipped_update_is_bounded_whatever_people_say(place: Path, tmp_path: Path) -> None:
    config = people_run(place, *PRIVATE, "training.learning_rate=1e4", "data.split.new_users=0")
    for user in (0, 5):
        update = update_of(config, tmp_path / str(user), user)
        norm = np.sqrt(sum(np.square(array.astype(np.float64)).sum() for array in update.values()))
        assert norm == pytest.approx(config.privacy.clip_norm)


def test_the_noise_reaches_every_row(place: Path, tmp_path: Path) -> None:
    """After a round under privacy the rows of answers that nobody gave have moved as well."""
    config = people_run(
        place, *PRIVATE, f"run.folder={tmp_path}", 'data.people.region=["north","south","nowhere"]', "run.name=noisy"
    )
    sent = [
        message.content.array_records["model"]["person_rows"].numpy()
        for message in federate(config)[1].sent
        if "model" in message.content.array_records and "person_rows" in message.content.array_records["model"]
    ]
    assert np.abs(sent[0]).max() == 0
    assert (np.abs(sent[-1]).reshape(-1, config.model.dimensions).sum(1) > 0).all()


@pytest.mark.parametrize(
    ("listed", "words"),
    [("[]", "data.people.region lists no values"), ('["north"]', "there is no column region")],
)
def test_a_device_s_fault_quotes_nothing(place: Path, tmp_path: Path, listed: str, words: str) -> None:
    """Not even where the coordinator asks without a list, hoping that the error proposes one."""
    shop = write_people_shop(tmp_path / "shop")
    text = "user,age,region\nu1,secret,hidden\n" if listed == "[]" else "user,age\nu1,secret\n"
    (shop / "people.csv").write_text(text, encoding="utf-8")
    blind = load_workspace(people_run(place, asked=False))
    config = people_run(tmp_path, *PRIVATE, f"data.people.region={listed}")
    task = tasks.Task(
        config,
        "run-1",
        USERS,
        noise_multiplier=1.0,
        catalogue=blind.features.digest,
        round_number=1,
        users=blind.user_keys[:3],
    )
    model = blind.new_model()
    arrays = wire.encode(model.shared_parameters(), wire.shared_shapes(model))
    reply = device(config, tmp_path / "device")(tasks.task_content(task, arrays))
    assert reply.has_error()
    reason = str(reply.error.reason)
    assert words in reason
    assert not any(word in reason for word in ("secret", "u1", "hidden"))
