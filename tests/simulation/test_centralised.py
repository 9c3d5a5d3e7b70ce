"""Centralised training: the devices' objective with all data in one place, resumable, and without any promise."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import relative_error
from tiny_shop import ITEMS, tiny_run, write_tiny_shop

from mmfed.config import build_config
from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.ranking import quick_metrics
from mmfed.federated.checkpoint import load_checkpoint
from mmfed.federated.progress import LATEST, chosen_model
from mmfed.federated.workspace import Workspace, load_workspace
from mmfed.models.base import Recommender
from mmfed.models.scoring import ModelScorer
from mmfed.privacy.keys import load_or_create_key
from mmfed.records import RunFolder, read_lines
from mmfed.simulation import centralised
from mmfed.simulation.run import simulate
from mmfed.training.batch import Histories
from mmfed.training.reference import train_users
from mmfed.training.update import LocalWork

CENTRALISED = ("federation.backend=centralised", "privacy.mode=none")
BETA1, BETA2, FLOOR = 0.9, 0.999, 1e-8  # of Adam (Kingma and Ba 2015)


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop of 48 people who walk along the items: what comes next follows from the last item alone."""
    folder = tmp_path_factory.mktemp("walks")
    write_tiny_shop(folder / "shop")
    starts = np.random.default_rng(0).integers(0, ITEMS, 48)
    with open(folder / "shop" / "interactions.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["user", "item", "time", "action"])
        for user, start in enumerate(starts):
            rows.writerows([f"u{user}", f"i{(start + step) % ITEMS}", 1_700_000_000 + step, "buy"] for step in range(8))
    return folder


@pytest.fixture
def walking(walks: Path, tmp_path: Path):
    """Configurations of centralised runs on it."""
    return lambda *more: tiny_run(walks, f"run.folder={tmp_path / 'runs'}", *CENTRALISED, *more)


def run_of(config) -> RunFolder:
    return RunFolder(config.run.folder / config.run.name)


def latest(config) -> dict[str, torch.Tensor]:
    run = run_of(config)
    return dict(load_checkpoint(run.checkpoints / LATEST, load_or_create_key(run.path / "key.pem"))[0])


def by_hand(model: Recommender, workspace: Workspace, config) -> dict[str, np.ndarray]:
    """Adam on the mean of the devices' gradients, as ``training.reference`` defines them, and of the public tasks."""
    histories, section = workspace.histories, config.centralised
    shared = model.shared_parameters()
    first, second = ({name: np.zeros(value.shape) for name, value in shared.items()} for _ in range(2))
    training = config.training.model_copy(update={"learning_rate": 1.0, "steps": 1})
    for epoch in range(1, section.epochs + 1):
        work = LocalWork(training=training, privacy=config.privacy, seed=config.run.seed, round_number=epoch)
        total = train_users(model, histories, torch.zeros(len(histories), 0), work).total
        public = sum(model.auxiliary_losses().values(), torch.zeros(())) * training.auxiliary_weight
        tasks = torch.autograd.grad(
            public + 0 * sum(value.sum() for value in shared.values()), list(shared.values()), allow_unused=True
        )
        for (name, value), task in zip(shared.items(), tasks, strict=True):
            gradient = -total[name].numpy() / len(histories) + (0 if task is None else task.numpy())
            gradient = gradient + section.weight_decay * value.detach().numpy()
            first[name] = BETA1 * first[name] + (1 - BETA1) * gradient
            second[name] = BETA2 * second[name] + (1 - BETA2) * gradient**2
            step = first[name] / (1 - BETA1**epoch) / (np.sqrt(second[name] / (1 - BETA2**epoch)) + FLOOR)
            with torch.no_grad():
                value -= torch.from_numpy(section.learning_rate * step).to(value.dtype)
    return {name: value.detach().numpy() for name, value in shared.items()}


@pytest.mark.parametrize("name", ["mf", "mtmf", "mmfnet"])
@pytest.mark.parametrize("objective", ["softmax", "bpr"])
def test_it_is_adam_on_the_mean_of_the_devices_gradients(configured, name, objective):
    config = configured(
        *CENTRALISED,
        f"model.name={name}",
        f"training.objective={objective}",
        "centralised.epochs=3",
        "centralised.batch=1000",
        "centralised.learning_rate=0.01",
        "centralised.weight_decay=0.01",
        "training.modality_dropout=0.3",
        "federation.selection=last",
    )
    simulate(config)
    workspace = load_workspace(config)
    model = workspace.new_model()
    start = {name: value.detach().clone() for name, value in model.shared_parameters().items()}
    expected = {key: torch.from_numpy(value) for key, value in by_hand(model, workspace, config).items()}
    found, round_number = chosen_model(run_of(config), config)
    assert round_number == 3
    assert relative_error(found, start) > 0.02
    # A gradient near 0 has a sign of chance in float32, and Adam makes a step of full size of it.
    close = [(found[key] - value).abs() < 1e-4 for key, value in expected.items()]
    assert sum(int(one.sum()) for one in close) > 0.995 * sum(one.numel() for one in close)


@pytest.mark.parametrize(("batch", "steps"), [(1, 12), (5, 3), (12, 1), (64, 1)])
def test_every_epoch_visits_everybody_in_batches(configured, batch, steps):
    config = configured(*CENTRALISED, "centralised.epochs=2", f"centralised.batch={batch}", "run.seed=3")
    simulate(config)
    held = latest(config)
    counts = {float(value) for name, value in held.items() if name.startswith("optimiser.step.")}
    assert counts == {2.0 * steps}
    records = read_lines(run_of(config).metrics)
    assert [record["round"] for record in records] == [1, 2]
    assert all(record["planned"] == record["asked"] == record["realised"] == 12 for record in records)


def test_every_epoch_and_batch_has_draws_of_its_own(configured, monkeypatch):
    """Order, positions and hidden modalities: watched where they are drawn."""
    orders, drawn, hidden = [], [], []
    take, batch, mask = Histories.take, centralised.training_batch, centralised.modality_mask

    def watched_take(self, index):
        orders.append(index.tolist())
        return take(self, index)

    def watched_batch(*arguments, **named):
        drawn.append((named["seed"], named["round_number"], named["step"]))
        return batch(*arguments, **named)

    def watched_mask(*arguments, **named):
        hidden.append((named["seed"], named["round_number"], named["step"]))
        return mask(*arguments, **named)

    monkeypatch.setattr(Histories, "take", watched_take)
    monkeypatch.setattr(centralised, "training_batch", watched_batch)
    monkeypatch.setattr(centralised, "modality_mask", watched_mask)
    simulate(configured(*CENTRALISED, "centralised.epochs=2", "centralised.batch=5", "run.seed=4"))
    first, second = ([user for part in half for user in part] for half in (orders[:3], orders[3:]))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert first != sorted(first)
    assert drawn == hidden == [(4, epoch, step) for epoch in (1, 2) for step in range(3)]


def test_it_learns_what_comes_next(walking):
    config = walking("centralised.epochs=30", "centralised.batch=16", "centralised.learning_rate=0.03")
    result = simulate(config)
    workspace = load_workspace(config)
    split = workspace.split
    untrained = quick_metrics(
        ModelScorer(workspace.new_model(), split.before_test),
        split.before_test,
        split.test,
        config.evaluation.k,
        item_count=ITEMS,
    )
    assert untrained["ndcg@10"] < 0.5
    assert result.federated.result["ndcg@10"] > 0.8
    validation = [record["validation"] for record in read_lines(run_of(config).metrics)]
    assert [one is not None for one in validation] == [number % 2 == 0 for number in range(1, 31)]
    values = [one["ndcg@10"] for one in validation if one is not None]
    assert values[-1] > values[0] + 0.2
    assert result.results["round"] == 2 * (int(np.argmax(values)) + 1)


def test_it_promises_nothing_and_says_so(configured):
    config = configured(*CENTRALISED, "centralised.epochs=1")
    result = simulate(config)
    own = result.results["methods"][-1]
    assert (own["name"], own["kind"]) == ("dfmf centralised", "no privacy")
    assert result.results["privacy"]["sentence"].startswith("NO DIFFERENTIAL PRIVACY")
    assert result.results["privacy"]["epsilon"] is None
    assert read_lines(run_of(config).metrics)[0]["epsilon"] is None
    assert not run_of(config).ledger.exists()
    assert not run_of(config).devices.exists(), "there are no devices"


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("privacy.mode=user-central", r"without privacy. Fix: set privacy\.mode = 'none'"),
        ("privacy.mode=record", "without privacy"),
        ("model.private_user_vector=true", "no devices"),
        ("centralised.epochs=0", "centralised.epochs"),
        ("centralised.batch=0", "centralised.batch"),
        ("centralised.learning_rate=0", "centralised.learning_rate"),
        ("centralised.learning_rate=nan", "centralised.learning_rate"),
        ("centralised.weight_decay=-1", "centralised.weight_decay"),
        ("centralised.cohort=4", "unknown key centralised.cohort"),
        ("federation.backend=centralized", "federation.backend"),
    ],
)
def test_what_it_cannot_keep_is_refused(setting, says):
    with pytest.raises(MmfedError, match=says) as fault:
        build_config({}, [*CENTRALISED, setting])
    assert fault.value.code is ExitCode.CONFIG


def test_a_one_shot_round_is_refused():
    with pytest.raises(MmfedError, match="one_shot"):
        build_config({}, [*CENTRALISED, "one_shot.enabled=true"])


def test_the_seed_decides_everything(configured):
    made = {}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        config = configured(*CENTRALISED, "centralised.epochs=2", "centralised.batch=5", f"run.name={name}")
        config = config.model_copy(update={"run": config.run.model_copy(update={"seed": seed})})
        simulate(config)
        made[name] = latest(config)
    assert all(torch.equal(value, made["same"][name]) for name, value in made["one"].items())
    assert not all(torch.equal(value, made["other"][name]) for name, value in made["one"].items())


class Interrupting:
    """Watches a run and stops it after a round, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self.after = after

    def stage(self, name: str) -> None: ...

    def features(self, modality: str, done: int, total: int) -> None: ...

    def planned(self, population: int, rate: float, noise_multiplier: float | None) -> None:
        assert (population, rate, noise_multiplier) == (12, 1.0, None)

    def processes(self, count: int) -> None: ...

    def round(self, record, epsilon) -> None:
        assert epsilon is None
        if record.round == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 3, 4])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(configured, after):
    whole, cut = (
        configured(*CENTRALISED, "centralised.epochs=4", "centralised.batch=5", f"run.name={name}") for name in "ab"
    )
    expected = simulate(whole)
    with pytest.raises(KeyboardInterrupt):
        simulate(cut, watcher=Interrupting(after))
    assert len(read_lines(run_of(cut).metrics)) == after
    found = simulate(cut, resume=True)
    one, other = latest(whole), latest(cut)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items()), "parameters and moments"
    assert found.results["methods"] == expected.results["methods"]
    assert [record["round"] for record in read_lines(run_of(cut).metrics)] == [1, 2, 3, 4]


def test_early_stopping_counts_epochs(walking):
    config = walking(
        "centralised.epochs=40",
        "centralised.learning_rate=0.3",
        "evaluation.every=1",
        "federation.early_stopping=2",
    )
    result = simulate(config)
    values = [record["validation"]["ndcg@10"] for record in read_lines(run_of(config).metrics)]
    assert result.results["round"] == int(np.argmax(values)) + 1
    assert len(values) == result.results["round"] + 2 < 40


def test_a_stopped_run_trains_no_further(walking):
    config = walking(
        "centralised.epochs=10",
        "centralised.learning_rate=0.3",
        "evaluation.every=1",
        "federation.early_stopping=1",
    )
    stopped = simulate(config)
    assert stopped.results["rounds"] < 10
    assert simulate(config, resume=True).results["rounds"] == stopped.results["rounds"]


def test_a_diverging_run_is_an_error_with_a_mend(configured):
    config = configured(*CENTRALISED, "centralised.epochs=3", "centralised.learning_rate=1e25", "evaluation.every=1")
    with pytest.raises(MmfedError, match=r"diverged|NaN") as fault:
        simulate(config)
    assert fault.value.code is ExitCode.CONFIG
    assert "learning rate" in fault.value.fix


def test_people_with_too_little_to_learn_from_are_no_obstacle(walks, tmp_path):
    shop = tmp_path / "shop"
    write_tiny_shop(shop)
    table = (walks / "shop" / "interactions.csv").read_text(encoding="utf-8")
    (shop / "interactions.csv").write_text(table + "short,i0,1700000000,view\n", encoding="utf-8")
    config = tiny_run(tmp_path, *CENTRALISED, "centralised.epochs=1", "centralised.batch=1")
    result = simulate(config)
    assert result.results["users"] == 49
    assert all(math.isfinite(float(value.abs().max())) for value in latest(config).values())
