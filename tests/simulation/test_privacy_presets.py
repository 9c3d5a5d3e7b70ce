"""The article's PPCF and PPMTL: scenarios that promise what the names say."""

from pathlib import Path

import pytest

from mmfed.config import load_config
from mmfed.simulation.run import simulate

SCENARIOS = Path(__file__).resolve().parents[2] / "simulations"


def test_ppcf_is_collaborative_filtering_at_user_level_with_private_vectors():
    config = load_config(SCENARIOS / "ppcf.toml")
    assert config.model.name in ("mf", "dfmf")
    assert config.model.private_user_vector
    assert (config.privacy.mode, config.privacy.epsilon) == ("user-central", 8.0)


def test_ppmtl_is_multi_task_at_user_level():
    config = load_config(SCENARIOS / "ppmtl.toml")
    assert config.model.name in ("mmfnet", "mtmf")
    assert config.training.action_weight > 0
    assert config.training.auxiliary_weight > 0
    assert 0 < config.privacy.task_clip_norm <= config.privacy.clip_norm
    assert (config.privacy.mode, config.privacy.epsilon) == ("user-central", 8.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppcf", "ppmtl"])
def test_presets_run_and_promise_one_user(name, tmp_path):
    small = ("data.users=40", "federation.rounds=1", "training.pretraining=5", "evaluation.bootstrap=10")
    config = load_config(SCENARIOS / f"{name}.toml", [*small, f"run.folder={tmp_path.as_posix()}"])
    privacy = simulate(config).results["privacy"]
    assert 0 < privacy["epsilon"] <= 8.0
    assert "one user" in privacy["sentence"]
