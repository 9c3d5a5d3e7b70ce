"""docs/add-a-model.md: its file and its line add a recommender that keeps the contract and trains in every mode."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny_models import relative_error, tiny_config, tiny_features, tiny_model
from tiny_shop import tiny_run, write_tiny_shop

import mmfed.models
from mmfed.config import build_config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.progress import chosen_model
from mmfed.federated.workspace import load_workspace
from mmfed.models.registry import RECOMMENDERS, build_recommender
from mmfed.models.tower import TowerRecommender
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.records import RunFolder, read_lines
from mmfed.simulation.run import device_ledgers, simulate

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "add-a-model.md").read_text(encoding="utf-8")
FILE, LINE = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.S)
(SCENARIO,) = re.findall(r"```toml\n(.*?)```", GUIDE, flags=re.S)
COMMANDS = [
    shlex.split(line) for block in re.findall(r"```sh\n(.*?)```", GUIDE, flags=re.S) for line in block.split("\n")
]
RUNS = [words for words in COMMANDS if words[:1] == ["mmfed"]]
TESTS = [words for words in COMMANDS if words[:1] == ["python"]]
(PATH,) = re.findall(r"`(mmfed/models/\w+\.py)`, whole", GUIDE)
REGISTRY = "mmfed/models/registry.py"
NAME = Path(PATH).stem


def with_the_line(registry: str) -> str:
    """The registry's source with the page's line at the end of its table."""
    return re.sub(r"(RECOMMENDERS: .*?\n)(})", lambda found: found[1] + LINE + found[2], registry, count=1, flags=re.S)


def suite(path: str) -> ModuleType:
    """A test module of this repository, apart from the one that pytest collects."""
    spec = importlib.util.spec_from_file_location(f"guide_{Path(path).stem}", ROOT / "tests" / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CONTRACT, PARITY = suite("contracts/test_recommenders.py"), suite("training/test_cohort_parity.py")
CHECKS = {
    name: check
    for name, check in vars(CONTRACT).items()
    if name.startswith("test_") and {"config", "model"} & inspect.signature(check).parameters.keys()
}
VARIANTS = ("model.fusion=default", "model.private_user_vector=true", "training.objective=mse")


@pytest.fixture
def seventh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[TowerRecommender]]:
    """The page's file as a module of ``mmfed.models`` and its line in the registry; both gone afterwards."""
    folder = tmp_path / "added"
    folder.mkdir()
    (folder / Path(PATH).name).write_text(FILE, encoding="utf-8")
    edited: dict[str, Any] = {}
    exec(with_the_line((ROOT / REGISTRY).read_text(encoding="utf-8")), edited)
    monkeypatch.setattr(mmfed.models, "__path__", [*mmfed.models.__path__, str(folder)])
    for name, place in edited["RECOMMENDERS"].items():
        monkeypatch.setitem(RECOMMENDERS, name, place)
    yield importlib.import_module(f"mmfed.models.{NAME}").CrossNetwork
    del sys.modules[f"mmfed.models.{NAME}"]
    delattr(mmfed.models, NAME)


def run_of(folder: Path, *more: str) -> Any:
    """A configuration of two rounds on the tiny shop, its name from the page's scenario."""
    write_tiny_shop(folder / "shop")
    chosen = tomllib.loads(SCENARIO)["model"]
    names = [f"model.name={chosen['name']}", f"model.fusion={chosen['fusion']}"]
    return tiny_run(folder, *names, "federation.rounds=2", "training.pretraining=2", *more)


def trained(config: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The run's shared parameters before and after."""
    model = load_workspace(config).new_model()
    return dict(model.shared_parameters()), chosen_model(RunFolder(config.run.folder / config.run.name), config)[0]


def test_without_the_line_the_name_is_refused_with_the_known_ones() -> None:
    config = build_config(tomllib.loads(SCENARIO))
    assert config.model.name == NAME
    with pytest.raises(MmfedError, match=f"model.name = '{NAME}'") as fault:
        build_recommender(config.model, tiny_features(), seed=0)
    assert fault.value.code is ExitCode.CONFIG
    assert all(name in fault.value.fix for name in RECOMMENDERS)


def test_one_line_is_all_that_changes_in_the_registry(seventh: type[TowerRecommender]) -> None:
    before = (ROOT / REGISTRY).read_text(encoding="utf-8").splitlines()
    after = with_the_line("\n".join(before)).splitlines()
    assert [line for line in after if line not in before] == LINE.splitlines()
    assert len(after) == len(before) + 1
    assert len(RECOMMENDERS) == 7
    model = build_recommender(build_config(tomllib.loads(SCENARIO)).model, tiny_features(), seed=0)
    assert type(model) is seventh


@pytest.mark.usefixtures("seventh")
def test_the_file_computes_what_its_docstring_says() -> None:
    """Against ``mf``, which is the same without crosses: x' = x + x ⊙ (norm(x) W / d + b) on either side."""
    crossed, plain = (tiny_model(tiny_config(f"model.name={name}")) for name in (NAME, "mf"))
    state = {name: value for name, value in crossed.state_dict().items() if not name.startswith("cross")}
    plain.load_state_dict(state)
    with torch.no_grad():
        found, linear = crossed.item_tables(), plain.item_tables()
    weights, biases = (crossed.get_parameter(name).detach() for name in ("cross", "cross_bias"))
    for side, (x, made) in enumerate([(linear.history, found.history), (linear.target, found.target)]):
        norm = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        torch.testing.assert_close(made, x + x * (norm @ weights[side] / x.shape[1] + biases[side]))
        assert not torch.allclose(made, x)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.usefixtures("seventh")
def test_it_keeps_the_contract(check: str, variant: str, tmp_path: Path) -> None:
    config = tiny_config(f"model.name={NAME}", variant)
    given = {"config": config, "model": tiny_model(config), "tmp_path": tmp_path}
    CHECKS[check](**{name: given[name] for name in inspect.signature(CHECKS[check]).parameters})


@pytest.mark.parametrize(("steps", "mode"), [(1, "none"), (1, "user-central"), (3, "user-central")])
@pytest.mark.parametrize("objective", ["softmax", "bpr", "mse"])
@pytest.mark.usefixtures("seventh")
def test_many_users_at_once_give_the_update_that_one_device_gives(objective: str, steps: int, mode: str) -> None:
    PARITY.test_every_recommender(NAME, torch.float64, objective, steps, mode)


@pytest.mark.parametrize("mode", ["none", "user-central", "record"])
@pytest.mark.usefixtures("seventh")
def test_it_trains_federated_in_every_privacy_mode(mode: str, tmp_path: Path) -> None:
    config = run_of(tmp_path, f"privacy.mode={mode}", "federation.nodes=2")
    result = simulate(config)
    assert result.results["methods"][-1]["name"] == f"{NAME} federated"
    before, after = trained(config)
    assert before.keys() == after.keys()
    assert all(torch.isfinite(value).all() for value in after.values())
    assert not before["cross"].any()
    assert after["cross"].abs().max() > 1e-4
    run = RunFolder(config.run.folder / config.run.name)
    ledgers = {"none": [], "user-central": [run.ledger], "record": device_ledgers(run)}[mode]
    if mode == "none":
        assert not run.ledger.exists()
        return
    assert audit_ledgers(ledgers).holds
    assert max(sum(line["kind"] == "release" for line in read_lines(ledger)) for ledger in ledgers) == 2
    assert result.results["privacy"]["epsilon"] > 0


@pytest.mark.parametrize("mode", ["none", "user-central"])
@pytest.mark.usefixtures("seventh")
def test_a_private_run_of_the_reference_is_the_run_of_the_cohort(mode: str, tmp_path: Path) -> None:
    after = {}
    for engine in ("reference", "cohort"):
        config = run_of(tmp_path, f"privacy.mode={mode}", f"training.engine={engine}", f"run.name={engine}")
        simulate(config)
        after[engine] = trained(config)[1]
    assert relative_error(after["cohort"], after["reference"]) < 1e-4


def test_commands_are_configurations_of_it_in_every_privacy_mode() -> None:
    configs = [build_config({}, words[3::2]) for words in RUNS]
    assert all(words[:2] == ["mmfed", "simulate"] and set(words[2::2]) == {"--set"} for words in RUNS)
    assert [config.model.name for config in configs] == [NAME] * 3
    assert [config.privacy.mode for config in configs] == ["none", "user-central", "record"]


def test_every_method_the_page_names_exists() -> None:
    table = GUIDE.split("| to change |")[1].split("\n\n")[0]
    rows = [row.split("|")[2] for row in table.splitlines()[2:]]
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(names) >= 10
    assert all(hasattr(TowerRecommender, name) for name in names)


@pytest.mark.slow
def test_the_page_as_written(tmp_path: Path) -> None:
    for name in ("mmfed", "tests", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / PATH).write_text(FILE, encoding="utf-8")
    registry = tmp_path / REGISTRY
    registry.write_text(with_the_line(registry.read_text(encoding="utf-8")), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    small = ["--set", "data.users=60", "--set", "federation.rounds=1", "--set", "training.pretraining=2"]
    programs = [[sys.executable, *words[1:]] for words in TESTS]
    programs += [[sys.executable, "-c", "from mmfed.cli.main import run; run()", *words[1:], *small] for words in RUNS]
    for program in programs:
        done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(program)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
