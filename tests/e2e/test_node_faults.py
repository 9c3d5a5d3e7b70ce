"""What goes wrong on a node reaches the coordinator as one line that names the node."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from flwr.app import Context, Error, Message, RecordDict
from small_run import settings, write_shop

from mmfed.config import Config, build_config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import faults
from mmfed.federated.coordinator import coordinate
from mmfed.federated.participant import client_app
from mmfed.records import RunFolder
from mmfed.simulation.inprocess import InProcessGrid

CATALOGUE = "its catalogue features differ from the coordinator's"


def small_config(folder: Path, *more: str) -> Config:
    shop = folder / "shop"
    if not shop.exists():
        write_shop(shop)
    return build_config({}, settings(folder, 'data.source="table"', f"data.path={shop}", "federation.rounds=1", *more))


def grid_with(folder: Path, **second_node: str) -> InProcessGrid:
    """Two nodes; the second with further settings of its own."""
    grid = InProcessGrid(client_app(), nodes=2, state_folder=folder / "state")
    grid._contexts[2].node_config.update({name.replace("_", "-"): value for name, value in second_node.items()})
    return grid


def test_a_node_with_another_catalogue_stops_a_run_that_needs_it(tmp_path: Path) -> None:
    write_shop(tmp_path / "other", price=1.5)
    config = small_config(tmp_path)
    grid = grid_with(tmp_path, data_dir=str(tmp_path / "other"))
    with pytest.raises(MmfedError, match=f"1 of 2 nodes could enrol .node 2: {CATALOGUE}"):
        coordinate(grid, config, RunFolder(tmp_path / "run"), None, resume=False)


def test_a_run_that_can_do_without_goes_on_and_names_the_node(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_shop(tmp_path / "other", price=1.5)
    config = small_config(tmp_path, "federation.minimum_nodes=1")
    grid = grid_with(tmp_path, data_dir=str(tmp_path / "other"))
    with caplog.at_level(logging.WARNING):
        coordinate(grid, config, RunFolder(tmp_path / "run"), None, resume=False)
    assert f"left out of the run: node 2: {CATALOGUE}" in caplog.text


def test_a_coordinator_without_interactions_plans_and_trains(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    write_shop(tmp_path / "catalogue", users=[])
    public = config.model_copy(
        update={"data": config.data.model_copy(update={"path": tmp_path / "catalogue"})},
    )
    grid = InProcessGrid(client_app(), nodes=2, state_folder=tmp_path / "state")
    for context in grid._contexts.values():
        context.node_config["data-dir"] = str(tmp_path / "shop")
    coordinate(grid, public, RunFolder(tmp_path / "run"), None, resume=False)
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count('"realised": 40') == 1


def test_a_node_without_interactions_says_so(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    write_shop(tmp_path / "empty", users=[])
    grid = grid_with(tmp_path, data_dir=str(tmp_path / "empty"))
    with pytest.raises(MmfedError, match=r"node 2: .*interactions\.csv: no such file"):
        coordinate(grid, config, RunFolder(tmp_path / "run"), None, resume=False)


def message() -> Message:
    return InProcessGrid(client_app(), nodes=1, state_folder=Path()).create_message(RecordDict(), "query", 1, "0")


def test_a_fault_becomes_the_reply_and_a_defect_does_not() -> None:
    context = Context(1, 1, {}, RecordDict(), {})

    @faults.faults_as_replies
    def mistaken(message: Message, context: Context) -> Message:
        raise MmfedError(ExitCode.DATA, "items.csv: empty.", "fill it.")

    @faults.faults_as_replies
    def broken(message: Message, context: Context) -> Message:
        raise ZeroDivisionError

    reply = mistaken(message(), context)
    assert reply.has_error()
    assert faults.reason(reply.error) == "items.csv: empty. Fix: fill it."
    with pytest.raises(ZeroDivisionError):
        broken(message(), context)


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("plain words.", "plain words."),
        ("<class 'flwr.clientapp.x.ClientAppException'>:<'what happened.'>", "what happened."),
        ("trace\n  File 'x'\nException ClientAppException occurred. Message: why.'>", "why."),
        ("", "error code 3"),
        ("red \x1b[31malert", "red [31malert"),
        ("x" * 5000, "x" * 400),
    ],
)
def test_reason_is_one_bounded_printable_line(reason: str, line: str) -> None:
    found = faults.reason(Error(code=3, reason=reason))
    assert found == line
    assert len(found) <= 400
    assert found.isprintable()


def test_equal_reasons_are_told_once() -> None:
    lines = [f"node {number}: no disk: full" for number in range(1, 6)] + ["node 9: no reply"]
    assert faults.condensed(lines) == "nodes 1, 2, 3 and 2 more: no disk: full; node 9: no reply"
    assert faults.condensed([]) == ""
