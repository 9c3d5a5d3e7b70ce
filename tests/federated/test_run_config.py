"""Flower's run config: both ways of giving a configuration, and what is said about anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmfed.config import build_config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.run_config import read_run_config

DEFAULTS = {"config": "", "scenario": "", "overrides": "", "resume": False}


def test_the_whole_tree_comes_back() -> None:
    config = build_config({}, ["federation.rounds=7", "privacy.mode=none", "federation.cohort=none"])
    assert read_run_config(DEFAULTS | config.to_flat()) == (config, False)
    assert read_run_config(config.to_flat()) == (config, False)


def test_overrides_go_on_top_of_the_scenario(tmp_path: Path) -> None:
    scenario = tmp_path / "shop.toml"
    scenario.write_text("[federation]\nrounds = 9\ncohort = 5\n")
    given = {
        "scenario": str(scenario),
        "overrides": 'federation.rounds=3; features.modalities=["text"]\n',
        "resume": True,
    }
    config, resume = read_run_config(DEFAULTS | given)
    assert (config.federation.rounds, config.federation.cohort) == (3, 5)
    assert config.features.modalities == ("text",)
    assert resume


def test_nothing_given_takes_the_defaults() -> None:
    assert read_run_config(DEFAULTS) == (build_config({}), False)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rounds": 3}, r"unknown key rounds"),
        ({"scenario": "absent.toml"}, r"absent\.toml: no such file"),
        ({"overrides": "federation.round=3"}, r"unknown key federation\.round\..*federation\.rounds"),
        ({"overrides": "federation.rounds"}, r"key=value"),
        ({"config": "{}", "overrides": "federation.rounds=3"}, r"config is given besides"),
        ({"config": "not json"}, r"run config: config: "),
        ({"config": '{"federation": {"rounds": -1}}'}, r"federation\.rounds: "),
        ({"resume": "yes"}, r"resume = 'yes'"),
    ],
)
def test_mistakes_are_named(given: dict, says: str) -> None:
    with pytest.raises(MmfedError, match=says) as raised:
        read_run_config(DEFAULTS | given)
    assert raised.value.code == ExitCode.CONFIG
    assert "\n" not in str(raised.value)
