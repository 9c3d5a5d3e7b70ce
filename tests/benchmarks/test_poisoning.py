"""The attacks do what they say, the defences what the page says of them, and the page holds what the runs gave."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_shop import tiny_run, write_tiny_shop

from mmfed.config import Config, build_config, load_config
from mmfed.errors import MmfedError
from mmfed.federated.one_shot_check import check_one_shot_reply
from mmfed.federated.workspace import load_workspace
from mmfed.training.cooccurrence import unpacked
from simulations.poisoning import study
from simulations.poisoning.__main__ import STANDARD
from simulations.poisoning.attacks import (
    FILLERS,
    KINDS,
    POPULAR,
    Attack,
    Kind,
    fake_history,
    fillers,
    forged_cooccurrence,
    forged_popularity,
    forger,
    of_norm,
    promotion,
)
from simulations.poisoning.page import ABOUT, page, table
from simulations.poisoning.study import Method, Outcome, Plan, read_plan, run_one, target_of

ROOT = Path(study.__file__).parents[2]
TARGET = 4


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("poisoned")
    write_tiny_shop(made / "shop")
    return made


def config_of(folder: Path, *more: str) -> Config:
    plain = ("privacy.mode=none", "training.pretraining=0", "federation.rounds=6", "federation.selection=last")
    return tiny_run(folder, *plain, "federation.server_optimiser.learning_rate=0.1", *more)


READERS = np.random.default_rng(0).permuted(np.tile(np.arange(30), (8, 1)), axis=1)[:, :5]


def test_devices_of_a_share() -> None:
    assert [Attack("row", share).devices(943) for share in (0.001, 0.01, 0.05)] == [1, 9, 47]
    assert Attack("row", 0.0001).devices(10) == 1


def test_fake_histories_lead_from_fillers_to_the_target() -> None:
    popularity = np.arange(500)[::-1]
    popular = fillers("fake-popular", popularity, np.random.default_rng(0))
    spread = fillers("fake-random", popularity, np.random.default_rng(0))
    assert len(set(popular.tolist())) == len(set(spread.tolist())) == FILLERS
    assert popular.max() < POPULAR < spread.max()
    history = fake_history(7, popular)
    assert (history[1::2] == 7).all()
    np.testing.assert_array_equal(history[::2], popular)


@pytest.mark.parametrize("kind", ["promotion", "row"])
def test_a_forged_update_raises_the_target_for_everybody_at_the_length_it_is_given(folder: Path, kind: Kind) -> None:
    workspace = load_workspace(config_of(folder))
    model = workspace.new_model()
    update = forger(kind, TARGET, READERS)(model, 0.2)
    length = np.sqrt(sum(float(value.square().sum()) for value in update.values()))
    assert length == pytest.approx(0.2, rel=1e-6)
    before = _chances(model)
    with torch.no_grad():
        for name, value in model.shared_parameters().items():
            value += update[name].float()
    after = _chances(model)
    assert (after > before).all()
    touched = {name for name, value in update.items() if value.any()}
    if kind == "row":
        assert touched <= set(model.row_parameters())
        for name in touched:
            assert np.flatnonzero(update[name].reshape(30, -1).abs().sum(1)).tolist() == [TARGET]
    else:
        assert touched - set(model.row_parameters())


def _chances(model) -> np.ndarray:
    """[readers] softmax chance of the target, read off the direction's own loss through the model's forward pass."""
    from mmfed.models.base import HistoryBatch

    count, events = READERS.shape
    batch = HistoryBatch(
        torch.from_numpy(READERS), torch.ones(count, events), torch.ones(count, events),
        torch.full((count, 1), events), torch.zeros(count, 1), torch.zeros(count, 0), torch.full((count, events), 0.5),
    )  # fmt: skip
    with torch.no_grad():
        return torch.softmax(model(batch)[:, 0], 1)[:, TARGET].numpy()


def test_the_direction_is_the_gradient(folder: Path) -> None:
    """Against finite differences of the readers' mean cross-entropy."""
    single = load_workspace(config_of(folder)).new_model()
    direction = promotion(single, TARGET, READERS)
    generator = np.random.default_rng(1)
    for name in ("target_ids", "item_bias", "pooling.mix"):
        parameter = single.shared_parameters()[name]
        place = tuple(int(generator.integers(size)) for size in parameter.shape)
        if name != "pooling.mix":
            place = (TARGET, *place[1:])
        step, found = 1e-2, []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[place] += sign * step
                found.append(-float(np.log(_chances(single)).mean()))
                parameter[place] -= sign * step
        assert float(direction[name][place]) == pytest.approx(-(found[0] - found[1]) / (2 * step), rel=0.02, abs=1e-4)


def test_a_zero_direction_stays_zero() -> None:
    assert not of_norm({"a": torch.zeros(3, dtype=torch.float64)}, 5.0)["a"].any()


@pytest.mark.parametrize("covered", [np.arange(30), np.array([2, TARGET, 9, 20])])
def test_forged_sums_have_norm_1_and_only_the_basket_could_be_somebodys(covered: np.ndarray) -> None:
    beside = np.array([1, 2, TARGET, 9])
    kinds: tuple[Kind, Kind] = ("pairs", "basket")
    for kind in kinds:
        vector = forged_cooccurrence(kind, TARGET, beside, covered)
        assert np.linalg.norm(vector) == pytest.approx(1)
        matrix = unpacked(vector, len(covered))
        place = int(np.flatnonzero(covered == TARGET)[0])
        assert (matrix[place, np.flatnonzero(np.isin(covered, [2, 9]))] > 0).all()
        if kind == "basket":
            check_one_shot_reply("cooccurrence", vector, size=len(covered))
        else:
            assert np.linalg.eigvalsh(matrix).min() < -0.5
            with pytest.raises(MmfedError, match="pairs without"):
                check_one_shot_reply("cooccurrence", vector, size=len(covered))
    assert not forged_cooccurrence("basket", 5, beside, np.array([2, 9])).any()  # the target was not asked for
    assert forged_popularity(3, 5).tolist() == [0, 0, 0, 1, 0]


def run(folder: Path, attack: Attack | None, *more: str) -> Outcome:
    """One run on 100 simulated shoppers of the demo shop."""
    config = build_config(
        {},
        [
            "data.users=100",
            'features.modalities=["attributes"]',
            f"features.cache={folder / 'features'}",
            "model.name=mf",
            "model.dimensions=6",
            "training.pretraining=0",
            "federation.rounds=8",
            "federation.selection=last",
            "federation.server_optimiser.learning_rate=0.1",
            "privacy.mode=none",
            "evaluation.every=100",
            *more,
        ],
    )
    return run_one(Method("m", config, (), (0,)), attack, 0)


@pytest.fixture(scope="session")
def honest(folder: Path) -> Outcome:
    found = run(folder, None)
    assert found.devices == 0
    assert found.shown < 0.05
    return found


@pytest.mark.parametrize("kind", ["fake-popular", "fake-random", "promotion", "row"])
def test_every_attack_promotes_where_nothing_is_bounded(folder: Path, kind: Kind, honest: Outcome) -> None:
    attacked = run(folder, Attack(kind, 0.1))
    assert attacked.target == honest.target
    assert attacked.devices == 10
    assert attacked.shown > honest.shown + 0.1
    assert attacked.rank < honest.rank


@pytest.mark.slow
@pytest.mark.parametrize(
    "defence",
    [("defence.norm_bound=0.5", "defence.row_bound=0.005"), ("defence.aggregation=median",)],
    ids=["rows", "median"],
)
def test_each_defence_holds_a_forger_down(folder: Path, defence: tuple[str, ...]) -> None:
    assert run(folder, Attack("row", 0.1), *defence).shown < 0.05


def test_the_norm_bound_takes_the_length_from_a_forger(folder: Path) -> None:
    """Of one device in a hundred, which without a bound weighs as much as five."""
    free, held = run(folder, Attack("row", 0.01)), run(folder, Attack("row", 0.01), "defence.norm_bound=0.1")
    assert held.rank > free.rank


def test_a_device_that_waits_sends_nothing_before(folder: Path) -> None:
    late, early = run(folder, Attack("row", 0.1, first_round=8)), run(folder, Attack("row", 0.1))
    assert early.shown > late.shown


def test_only_a_sum_that_could_be_somebodys_is_taken_in_the_one_shot_round(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = ("federation.rounds=0", "one_shot.enabled=true")
    plain = run(folder, None, *more)
    pairs = run(folder, Attack("pairs", 0.1), *more)
    assert caplog.text.count("pairs without their items") == 1  # told once for all ten
    assert (pairs.shown, pairs.rank, pairs.recall) == (plain.shown, plain.rank, plain.recall)
    caplog.clear()
    basket = run(folder, Attack("basket", 0.1), *more)
    assert not caplog.text
    assert basket.shown > plain.shown + 0.1
    fake = run(folder, Attack("fake-popular", 0.1), *more)
    assert fake.rank < plain.rank


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fake-popular", "basket", "promotion"])
def test_attacks_under_noise(folder: Path, kind: Kind) -> None:
    more = ("privacy.mode=user-central", "privacy.epsilon=50", "one_shot.enabled=true", "federation.rounds=2")
    found = run(folder, Attack(kind, 0.1), *more)
    assert 49 < (found.epsilon or 0) <= 50
    assert found.refused == 0


def test_the_target_is_unpopular(folder: Path) -> None:
    workspace = load_workspace(config_of(folder))
    for seed in range(5):
        assert 3 <= workspace.train_users[target_of(workspace, seed)] <= 10
    lonely = replace(workspace, split=replace(workspace.split, train=workspace.split.train.keep_rows(
        np.zeros(len(workspace.split.train), dtype=bool)
    )))  # fmt: skip
    with pytest.raises(MmfedError, match="no item has 3 to 10"):
        target_of(lonely, 0)


def outcome(attack: Attack | None, seed: int, **more) -> Outcome:
    plain = Outcome("m", seed, attack, "i1", 0, 0.1 * seed, 10.0 + seed, 0.25, 0, None, 0, None)
    return replace(plain, **more)


def test_the_table_shows_means_and_extremes(folder: Path) -> None:
    row = Attack("row", 0.01)
    found = [outcome(None, 0), outcome(None, 2), outcome(row, 1, devices=9, refused=3, alarm=7, false_alarms=2)]
    lines = table(found, (None, row), rounds=True, watched=True)
    assert lines[2] == "| no attack | 0 | 10.0% [0.0%, 20.0%] | 11 [10, 12] | 0.250 [0.250, 0.250] | 0 | 0 of 2 | 0.0 |"
    assert lines[3] == f"| {KINDS['row']}, 1.0% | 9 | 10.0% | 11 | 0.250 | 3 | 1 of 1 | 2.0 |"
    assert "refused" not in table(found, (None, row), rounds=False, watched=False)[0]
    plan = Plan("p", "Title", (Method("m", config_of(folder), (row,), (0, 2)),))
    text = page([(plan, found)])
    assert text.startswith(ABOUT)
    assert "## Title" in text
    assert "### m\n" in text
    assert "2 targets." in text


@pytest.mark.parametrize("path", STANDARD, ids=lambda path: path.stem)
def test_the_scenarios_say_what_their_methods_are_called(path: Path) -> None:
    plan = read_plan(path)
    for method in plan.methods:
        config = method.config
        assert ("user-central" in method.name) == (config.privacy.mode == "user-central")
        assert ("norm bound 0.5" in method.name) == (config.defence.norm_bound == 0.5)
        assert (config.defence.row_bound is not None) == ("row bound" in method.name)
        if config.defence.row_bound is not None:
            assert f"row bound {config.defence.row_bound:g}" in method.name
        if "clip norm" in method.name:
            assert f"clip norm {config.privacy.clip_norm:g}" in method.name
        assert ("median" in method.name) == (config.defence.aggregation == "median")
        assert (config.defence.alarm_rise is not None) == ("alarm" in plan.title)
        assert all(one.first_round == (41 if "round 41" in plan.title else 1) for one in method.attacks)


def test_a_wrong_section_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    for text, says in (
        ("", "no \\[\\[poisoning.methods\\]\\]"),
        ('[poisoning]\n[[poisoning.methods]]\nname = "a"\nset = {}\n', "none given"),
        ('[poisoning]\nattacks = ["magic"]\n[[poisoning.methods]]\nname = "a"\nset = {}\n', "magic"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(MmfedError, match=says):
            read_plan(path)


def test_the_scenarios_are_ordinary_ones_otherwise() -> None:
    for path in STANDARD:
        assert "poisoning" in tomllib.loads(path.read_text(encoding="utf-8"))
        with pytest.raises(MmfedError, match="unknown key poisoning"):
            load_config(path)


def test_the_published_page_is_of_this_form() -> None:
    text = (ROOT / "docs" / "results" / "poisoning.md").read_text(encoding="utf-8")
    assert text.startswith(ABOUT)
    for path in STANDARD:
        plan = read_plan(path)
        assert f"## {plan.title}" in text
        for method in plan.methods:
            assert f"### {method.name}" in text
