"""Secure aggregation between real Flower processes: SuperLink with TLS, three SuperNodes, ``flwr run``."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from loopback import Loopback
from small_run import settings, write_shop

from mmfed.privacy.audit.crosscheck import cross_check
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.records import read_lines

ACTIVATION_SECONDS = 60
MODE = (
    "privacy.mode=user-distributed",
    "privacy.noise_source=csprng",
    "privacy.epsilon=none",
    "privacy.noise_multiplier=1.0",
    "federation.rounds=1",
    "federation.minimum_nodes=3",
    "training.pretraining=0",
    "federation.round_timeout=400",  # a step starts a process on every node
)


def device(folder: Path, shop: Path, partition: int) -> str:
    """The text of the device.toml of a real device: it has data of its own, and asks for this mode."""
    paths = f"data-dir = {json.dumps(str(shop))}\nstate-dir = {json.dumps(str(folder / 'state'))}\n"
    demands = 'require-privacy = "user-distributed"\nvault = "none"\n'
    return f"{paths}{demands}partition-id = {partition}\nnum-partitions = 3\n"


def deployed(tmp_path: Path, *more: str) -> tuple[Path, list[Path]]:
    """Run folder and the devices' folders of a run between processes."""
    shop, catalogue = tmp_path / "shop", tmp_path / "catalogue"
    write_shop(shop)
    write_shop(catalogue, users=[])
    overrides = settings(tmp_path / "deployed", 'data.source="table"', f"data.path={catalogue}", *MODE, *more)
    with Loopback(tmp_path / "net") as net:
        for number in range(3):
            net.add_node(f"node{number}", device(net.folder / f"node{number}", shop, number))
        deadline = time.monotonic() + ACTIVATION_SECONDS
        while net.logs().count("Activated node_id") < 3:
            assert time.monotonic() < deadline, net.logs()
            time.sleep(0.2)
        output = net.run({"overrides": "; ".join(overrides)}, timeout=1200)
    run = tmp_path / "deployed" / "small"
    assert (run / "metrics.jsonl").exists(), output
    rosters = [path.read_text() for path in sorted((tmp_path / "net").rglob("roster.txt"))]
    assert len(rosters) == 3
    assert len(set(rosters)) == 1
    assert len(rosters[0].split()) == 3
    return run, sorted((tmp_path / "net").rglob("ledgers/*.jsonl"))


@pytest.mark.slow
def test_the_one_shot_release_between_processes(tmp_path: Path) -> None:
    """Popularity of all 40 users, noised in shares by devices that check what they are told, charged on both sides."""
    release = ("one_shot.enabled=true", "one_shot.popularity_share=1", "federation.rounds=0")
    run, ledgers = deployed(
        tmp_path, *release, "privacy.epsilon=4", "privacy.delta=1e-3", "privacy.noise_multiplier=none"
    )
    assert (run / "checkpoints" / "one-shot.safetensors").exists()
    assert len(ledgers) == 40
    audit = audit_ledgers([run / "ledger.jsonl", *ledgers])
    assert audit.holds, audit.findings
    assert not cross_check(audit.ledgers).findings
    assert {one.releases for one in audit.ledgers} == {1}
    assert [one.recomputed for one in audit.ledgers] == pytest.approx([4.0] * 41, rel=1e-3)


@pytest.mark.slow
def test_a_round_of_secure_aggregation_between_processes(tmp_path: Path) -> None:
    """Every step in a process of its own; the sum of all 40 users is released and charged once."""
    run, _ = deployed(tmp_path)
    assert [(line["round"], line["realised"]) for line in read_lines(run / "metrics.jsonl")] == [(1, 40)]
    audit = audit_ledgers([run / "ledger.jsonl"])
    assert audit.holds, audit.findings
    assert audit.ledgers[0].releases == 1
