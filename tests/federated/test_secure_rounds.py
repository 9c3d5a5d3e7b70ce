"""Mode ``user-distributed`` end to end in one process: one node a user, nodes that vanish, and what is released."""

from __future__ import annotations

import json

import numpy as np
import pytest
from federation import Fake, federate
from flwr.app import ConfigRecord, Error, Message, RecordDict

from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import secure_messages as messages
from mmfed.federated.secure_release import SecureRelease
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.records import RunFolder, read_lines, write_text
from mmfed.simulation.audit_run import against_rounds

MODE = ("privacy.mode=user-distributed", "training.pretraining=0", "federation.rounds=1", "federation.round_timeout=60")
STEPS = (messages.ADVERTISE, messages.SHARE, messages.MASK, messages.AGREE, messages.ANSWER)
# every step is tested without models in tests/privacy/secure_aggregation
EACH_STEP = [s if s == messages.MASK else pytest.param(s, marks=pytest.mark.slow) for s in STEPS]


def releases(run: RunFolder) -> list[dict]:
    return [line["body"] for line in read_lines(run.ledger) if line["kind"] == "release"]


def silent_from(step: str, first_round: int = 1) -> Fake:
    """A node that is gone from a step of every round on (labelled fake)."""
    order = STEPS.index(step)

    def fake(message: Message, real) -> list[Message]:
        gone = STEPS.index(message.metadata.message_type) >= order and int(message.metadata.group_id) >= first_round
        return [] if gone else [real()]

    return fake


def named_run(config, *, nodes: int, **more):
    """A run with a fixed id, which the public rotation depends on."""
    write_text(config.run.folder / config.run.name / "run-id", "tiny-1\n")
    return federate(config, nodes=nodes, **more)


@pytest.mark.slow
def test_masks_and_nodes_change_nothing_in_the_sum(configured):
    """One user a node with masks, four nodes with masks, one node without: the same integers, the same releases."""
    hashes = []
    for name, nodes, masks in (("devices", 12, "always"), ("cohorts", 4, "always"), ("simulated", 1, "skipped")):
        run, _ = named_run(
            configured(*MODE, "federation.rounds=2", f"run.name={name}", f"privacy.masks={masks}"), nodes=nodes
        )
        assert [record["realised"] for record in read_lines(run.metrics)] == [12, 12]
        hashes.append([body["result_hash"] for body in releases(run)])
    assert hashes[0] == hashes[1] == hashes[2]


def test_the_ledger_says_what_was_released_and_the_audit_agrees(configured):
    config = configured(*MODE)
    run, _ = federate(config, nodes=12)
    header = read_lines(run.ledger)[0]["body"]
    assert header["mode"] == "user-distributed"
    assert "honest but curious" in header["trust"]
    assert "one user" in header["unit"]
    for body in releases(run):
        assert body["mechanism"] == "skellam"
        assert body["noise_added_by"] == "device"
        assert (body["planned_cohort"], body["minimum_cohort"], body["realised_cohort"]) == (12, 10, 12)
    audit = against_rounds(run, config, audit_ledgers([run.ledger]))
    assert audit.holds, audit.findings
    assert audit.ledgers[0].recomputed == pytest.approx(audit.ledgers[0].claimed, rel=1e-9)
    assert audit.ledgers[0].mu is None


@pytest.mark.parametrize("step", EACH_STEP)
def test_a_round_goes_on_without_those_who_drop_out(configured, step):
    """Two of twelve vanish at each step: before the masked vector they are not in the sum, after it they are."""
    run, _ = federate(configured(*MODE), nodes=12, fakes={3: silent_from(step), 7: silent_from(step)})
    before = step in (messages.ADVERTISE, messages.SHARE, messages.MASK)
    expected = 10 if before else 12
    assert [record["realised"] for record in read_lines(run.metrics)] == [expected]
    assert [record["refused_nodes"] for record in read_lines(run.metrics)] == [2]
    assert [body["dropouts"] for body in releases(run)] == [12 - expected]


@pytest.mark.parametrize("step", EACH_STEP)
def test_below_the_threshold_nothing_is_released(configured, step):
    """In the second round too many vanish: the run stops, the first round stands, the second left no trace."""
    gone = {node: silent_from(step, first_round=2) for node in (1, 4, 5, 9, 12)}
    config = configured(*MODE, "federation.rounds=2")
    with pytest.raises(MmfedError, match="nothing was released") as fault:
        federate(config, nodes=12, fakes=gone)
    assert fault.value.code == ExitCode.FEDERATION
    assert "--resume" in fault.value.fix
    run = RunFolder(config.run.folder / config.run.name)
    assert [body["round"] for body in releases(run)] == [1]
    assert len(read_lines(run.metrics)) == 1
    federate(config, nodes=12, resume=True)
    assert [body["round"] for body in releases(run)] == [1, 2]


def test_three_users_too_few_for_the_noise_are_too_few_though_masks_would_come_off(configured):
    """Nine of twelve parties are above two thirds, but the noise is sized for ten users."""
    gone = {node: silent_from(messages.MASK) for node in (1, 4, 5)}
    with pytest.raises(MmfedError, match=r"9 parties \(9 users\) survived; 9 parties and 10 users are needed"):
        federate(configured(*MODE), nodes=12, fakes=gone)


def test_without_masks_the_minimum_holds_as_well(configured):
    def gone(message: Message, real) -> list[Message]:
        return []

    config = configured(*MODE, "privacy.masks=skipped")
    with pytest.raises(MmfedError, match="9 users of the 10 needed; nothing was released"):
        federate(config, nodes=4, fakes={2: gone})
    assert releases(RunFolder(config.run.folder / config.run.name)) == []


def test_a_broken_node_is_left_out(configured):
    """Errors and foreign replies, one at each step (fakes)."""

    def error(message: Message, real) -> list[Message]:
        return [Message(Error(code=3, reason="disk full"), reply_to=message)]

    def foreign(message: Message, real) -> list[Message]:
        return [Message(RecordDict({"secure": ConfigRecord({"vector": "text", "shares": 5})}), reply_to=message)]

    run, _ = federate(configured(*MODE), nodes=12, fakes={2: error, 11: foreign})
    assert [record["realised"] for record in read_lines(run.metrics)] == [10]


def test_a_node_that_sends_another_ones_keys_is_left_out(configured):
    """Replayed within the round: the advertisement of node 1 in the place of node 2's (fake)."""
    kept: dict[str, RecordDict] = {}

    def keeps(message: Message, real) -> list[Message]:
        reply = real()
        kept.setdefault(message.metadata.group_id + message.metadata.message_type, reply.content)
        return [reply]

    def repeats(message: Message, real) -> list[Message]:
        return [Message(kept[message.metadata.group_id + message.metadata.message_type], reply_to=message)]

    run, _ = federate(configured(*MODE), nodes=12, fakes={1: keeps, 2: repeats})
    assert [record["realised"] for record in read_lines(run.metrics)] == [11]


def test_no_single_update_crosses_the_wire(configured):
    """Every vector a node sends is uniform in the ring, and names, lengths and counts are all that else leaves it."""
    run, grid = federate(configured(*MODE), nodes=12)
    allowed = {"identity", "fingerprint", "advertisement", "shares", "vector", "signature", "seeds", "keys"}
    sent = set()
    for reply in grid.received:
        for name, record in reply.content.items():
            if name == "secure":
                assert isinstance(record, ConfigRecord)
                sent |= set(record)
            else:
                assert name == "reply"  # enrolment
    assert sent == allowed
    body = releases(run)[0]
    assert not {"users", "parties"} & set(body)


def test_the_noise_in_the_sum_is_what_the_plan_says(configured, monkeypatch):
    """Updates of next to nothing: what is left is the noise of all twelve shares, not 2/3 or 3/2 of it."""
    found: list[tuple[np.ndarray, float]] = []
    decoded = SecureRelease.decoded

    def listening(self, total, **named):
        mean = decoded(self, total, **named)
        expected = self.noise.standard_deviation * np.sqrt(12 / self.noise.minimum) / self.noise.cohort
        found.append((mean, expected))
        return mean

    monkeypatch.setattr(SecureRelease, "decoded", listening)
    tiny = ("training.learning_rate=1e-12", "model.name=dfmf", "privacy.noise_multiplier=1.7")
    federate(configured(*MODE, *tiny), nodes=4)
    assert len(found) == 1
    for mean, expected in found:
        assert len(mean) > 3000
        assert np.abs(mean.mean()) < 5 * expected / np.sqrt(len(mean))
        assert expected * 0.94 < mean.std() < expected * 1.06


def test_a_cohort_smaller_than_the_population_has_a_fixed_size_and_no_amplification(configured):
    run, _ = federate(configured(*MODE, "federation.cohort=6", "federation.rounds=3"), nodes=4)
    assert [record["realised"] for record in read_lines(run.metrics)] == [6, 6, 6]
    assert {(body["sampling"], body["sampling_rate"], body["planned_cohort"]) for body in releases(run)} == {
        ("full", 1, 6)
    }


def test_too_few_nodes_for_masks(configured):
    with pytest.raises(MmfedError, match="masks need 3") as fault:
        federate(configured(*MODE), nodes=2)
    assert "privacy.masks" in fault.value.fix


def test_an_exhausted_budget_stops_the_run_and_is_written_down(configured):
    config = configured(*MODE, "privacy.epsilon=2.5", "federation.rounds=4")
    with pytest.raises(MmfedError, match="budget exhausted"):
        federate(config, nodes=4)
    run = RunFolder(config.run.folder / config.run.name)
    lines = read_lines(run.ledger)
    assert lines[-1]["kind"] == "refusal"
    assert lines[-1]["body"]["by"] == "server"  # before any device was asked
    assert max(body["epsilon"] for body in releases(run)) <= 2.5


def test_planned_noise_spends_the_target(configured):
    config = configured(*MODE, "privacy.epsilon=4", "privacy.noise_multiplier=none")
    run, _ = federate(config, nodes=4)
    assert 3.99 < releases(run)[-1]["epsilon"] <= 4.0


def test_a_run_repeated_from_its_seed_gives_the_same_releases_and_charges_once(configured):
    """Killed after the charge and before the checkpoint: the repeated round is bit-identical, so it costs nothing."""
    config = configured(*MODE)
    run, _ = named_run(config, nodes=4)
    first = releases(run)
    (run.checkpoints / "latest.safetensors").unlink()
    write_text(run.metrics, "")
    federate(config, nodes=4, resume=True)
    assert releases(run) == first
    assert json.dumps(first)
